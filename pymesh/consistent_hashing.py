"""Limits of consistent hashing, which what is written, what pilot makes of it and what a proxy takes have in common."""

import re
from typing import Final

# Places on a ring of hashes where nobody says how many; Istio's default, and Envoy's.
DEFAULT_RING_SIZE: Final = 1024
# The greatest number that may be asked for. Envoy allows 8 Mi; in a proxy of Python a place costs 3 µs when its
# endpoint is first seen and about 100 bytes: so many take a fifth of a second, in steps, and 6 MiB.
MAX_RING_SIZE: Final = 64 * 1024
# Names and values that a cookie can hold: printable ASCII without `"`, `,` and `;` (RFC 6265 4.1.1).
COOKIE_TEXT: Final = re.compile(r"[!#-+\--:<-~]*")
