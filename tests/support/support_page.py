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
  tried again within `num_retries`, even if `retry_on` does not name the failure. Retries always prefer an endpoint
  not yet tried. A request with an idempotent method whose reused connection breaks before an answer is sent once more
  in any case (RFC 9112 section 9.3.1). Internal requests may ask for retries and timeouts by `x-envoy-` headers, as
  in Envoy; hedging, `x-envoy-upstream-alt-stat-name` and `x-envoy-upstream-rq-timeout-alt-response` are taken away
  without effect.
- **Load balancing.** Spill-over between priorities, degraded endpoints, panic, locality weights, schedules by weight,
  rings and their keys are Envoy's: the same key leads to the same endpoint from either proxy. MAGLEV and zone-aware
  routing are refused. Localities of which none has a weight are one pool, also for RING_HASH, where Envoy finds nobody.
- **Health checks.** Nothing waits for the first round of them: until then the endpoints are unhealthy, all at once,
  which is a panic, unless that is switched off. Envoy opens its listeners after that round. `x-envoy-degraded` in an
  answer counts, `x-envoy-immediate-health-check-fail` does not. gRPC checks are refused.
- **Outlier detection** is Envoy's; ejections are told in the proxy's own log instead of an event log.
- **Warming.** A listener or cluster is in force at once, also while its routes or endpoints have not arrived; requests
  get 404 or 503 until then.
- **External authorization.** `request.http.id` is the x-request-id; Envoy's is a number that nothing else knows. A
  header of a denial with `append` is in the answer, too.
- **What is refused.** HTTP/1.1 is read more strictly than by Envoy, since two readings of one message are how
  requests are smuggled: bare line feeds and folded lines, a repeated Content-Length, a Connection that lists framing
  fields, white space in a chunk's size line, trailers that would act as header fields. Methods are any token, where
  Envoy knows a list. [smuggling.md](smuggling.md) shows 878 messages side by side.
- **A malformed response** is 502 with flag UPE, and `http1.<what is wrong>` in its details, where Envoy says
  `protocol_error` for all; also where its head was good and the fault came along with it, which Envoy passes on and
  cuts.
- **Trailers** and interim responses (103) go through both ways; Envoy drops them unless told otherwise. `Expect:
  100-continue` is the upstream's to answer, so that a body that it refuses is never sent; Envoy answers it itself.
- **Upgrades.** One that is not allowed, or asked for with a body, is not asked for upstream: the request goes on
  without; Envoy says 403. An answer that declines an upgrade keeps its body. The end of an upgraded connection is no
  failure in the log. Behind CONNECT, which no route takes, the connection ends: what follows was meant for a tunnel.
- **TLS that ends without close_notify** is a stream that was cut, not one that ended: an opaque connection is reset
  behind us, and a body that only ends with its connection is incomplete (RFC 9112 section 9.8). Envoy takes both for
  the end.
- **An unnamed port over mutual TLS**: what the client's ALPN calls opaque is still looked at, towards the app;
  requests in it are read, and carry our `x-forwarded-client-cert`. Envoy believes the ALPN.
- **Answers of the proxy itself** say in `Proxy-Status` why they were given (RFC 9209); Envoy does where told to. Only
  the text of a refused connection's reason is not Envoy's. A `request_timeout` has the flag DT; Envoy gives it none.
- **Response flags.** A request has one, for what ended it, and before it `URX` or `UO` where it was not tried again.
- **Header fields** keep their spelling; Envoy writes all in lower case. Names that a CGI
  or WSGI server takes for a proxy's own word (`X_Forwarded_For`) are taken away. A request without a body gets no
  `content-length: 0`. A client on loopback is that in `x-forwarded-for`; Envoy names an address of the machine.
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
