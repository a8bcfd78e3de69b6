"""Writes docs/support.md, the reference of supported xDS fields, from the table that drives the refusals.

Usage: `python -m tests.support.support_page > docs/support.md`
"""

import sys
from collections.abc import Iterator

from pymesh.xds.support import SUPPORTED, Support

HEAD = """\
# What of Envoy's configuration pymesh-proxy supports

pymesh-proxy is configured in Envoy's language, xDS v3: by a bootstrap file (`--config`) or by a control plane. It
supports the messages and fields below. **Every other field is refused, never ignored**: a file with one is not started
with, an update with one is answered with a NACK, and both name the field's full path. Fields at their default value
count as not set.

This page is generated from the table in `pymesh/xds/support.py` that drives the refusals. Do not edit it; run
`python -m tests.support.support_page > docs/support.md`.

## Where behaviour differs from Envoy

- **Retries.** A route without a retry policy retries nothing, as in Envoy. With one, a request that did not reach the
  upstream, that the upstream said it did not process, or whose method is idempotent and whose connection broke, is
  tried again within `num_retries`, even if `retry_on` does not name the failure. Retries always prefer an endpoint not
  yet tried. A request with an idempotent method whose reused connection breaks before an answer is sent once more in
  any case (RFC 9112 section 9.3.1). The request headers `x-envoy-retry-on` and `x-envoy-max-retries` are not looked at.
- **Priorities.** All traffic goes to the lowest priority that has a healthy endpoint; Envoy spills over by degrees
  (overprovisioning factor 140 %).
- **Localities** of one priority are one pool; there is no zone-aware routing.
- **Weighted LEAST_REQUEST** compares `(active + 1) / weight` of the endpoints drawn; Envoy schedules by
  `weight / (active + 1)`.
- **Warming.** A listener or cluster is in force at once, also while its routes or endpoints have not arrived; requests
  get 404 or 503 until then.
- **External authorization.** `request.http.id` is the x-request-id; Envoy's is a number that nothing else knows. A
  header of a denial with `append` is in the answer, too.
- **YAML** is read in the core schema of YAML 1.2: booleans are `true` and `false`; a key given twice is an error.

Regular expressions are RE2, as in Envoy, and match the whole value.

## Messages and fields
"""


def render() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n{section}" for section in _sections())


def _sections() -> Iterator[str]:
    for message, support in SUPPORTED.items():
        yield f"### {message}\n\n" + "".join(_lines(support))


def _lines(support: Support) -> Iterator[str]:
    if not support.fields:
        yield "No fields; the message itself is accepted.\n"
    for name in support.fields.split():
        values = support.only.get(name, ())
        remarks = [f"only {', '.join(f'`{value}`' for value in values)}"] if values else []
        remarks += [support.notes[name]] if name in support.notes else []
        yield f"- `{name}`" + (f": {'; '.join(remarks)}" if remarks else "") + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
