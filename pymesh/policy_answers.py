"""What a refused caller is told, the same whether the policy service or the sidecar itself refuses.

Source of the header fields: draft-ietf-httpapi-ratelimit-headers (RateLimit-Policy, RateLimit), RFC 9110 10.2.3
(Retry-After). The policy's name there is the rule's without its kind; `q` is the quota, `w` the window in seconds, `r`
what remains, `t` the seconds until there is more, `qu` the unit where it is not requests.
"""

from collections.abc import Sequence
from math import ceil
from typing import Final

Fields = tuple[tuple[str, str], ...]

# The periods that a rate may have, in seconds, and how people say them.
PER: Final = {1: "a second", 60: "a minute", 3600: "an hour", 86_400: "a day"}


def whole_seconds(wait: float) -> int:
    """Seconds to wait as Retry-After has them: whole ones, one at least."""
    return max(1, ceil(wait))


def rate_fields(rule: str, requests: int, period: int, wait: float) -> Fields:
    """The header fields of a refusal: `requests` in `period` seconds are spent for another `wait` seconds."""
    name, seconds = _name(rule), whole_seconds(wait)
    return (
        ("retry-after", str(seconds)),
        ("ratelimit-policy", f'"{name}";q={requests};w={period}'),
        ("ratelimit", f'"{name}";r=0;t={seconds}'),
    )


def slot_fields(rule: str, limit: int, wait: float) -> Fields:
    """The header fields of a refusal: `limit` requests at once are in; worth trying again in `wait` seconds."""
    name = _name(rule)
    return (
        ("retry-after", str(whole_seconds(wait))),
        ("ratelimit-policy", f'"{name}";q={limit};qu="concurrent-requests"'),
        ("ratelimit", f'"{name}";r=0'),
    )


def rate_sentence(rule: str, requests: int, period: int, *, burst: int, by: Sequence[str], wait: float) -> str:
    """What a person reads who was refused by a rate."""
    at_once = f", {burst} at once" if burst != requests else ""
    apart = f" for each {', '.join(by)}" if by else ""
    return f"{rule}: {requests} {PER[period]}{at_once}{apart}; try again in {whole_seconds(wait)} s"


def _name(rule: str) -> str:
    """`RateLimit default/hello` → `default/hello`; names of Kubernetes need no quoting in a structured field."""
    return rule.rpartition(" ")[2]
