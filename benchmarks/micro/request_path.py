"""What one proxied request costs in Python alone: real connection, exchange and pool, with transports that do nothing.

    python -m benchmarks.micro.request_path [--varied] [--post] [--features] [--rules N] [--report] [--trace PERCENT]
                                            [--profile]

Every request and every answer is the same, as with wrk; with `--varied` each has a line that the one before had not (an
id, a date), and with `--post` 4 KiB come along. With `--features` there is what the macro scenario of that name has: an
access log in Istio's format, a retry policy and one RBAC rule with a permission for method and path and a principal;
the request id and Istio's metrics always are. With `--rules` there are so many access rules, as in the macro scenario
`authz`. With `--report` every request is reported to an access log service (which is away: entries are made, and
dropped), with `--trace` so many of a hundred get a span, likewise. Prints microseconds of CPU per request, the best of
several rounds. System calls and the event loop come on top; `benchmarks/macro` has the whole, next to other proxies.
"""

import argparse
import asyncio
import cProfile
import pstats
from time import process_time

import uvloop
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from google.protobuf.json_format import ParseDict

from benchmarks.macro.generated import policies
from pymesh.access_log_formats import ISTIO_TEXT_FORMAT
from pymesh.peer_metadata import Peer, ServiceFacts
from pymesh_proxy.config.model import (
    AccessLog,
    AccessLogFile,
    Cluster,
    Direction,
    Discovery,
    GrpcAccessLog,
    HttpManager,
    Snapshot,
    Tracing,
)
from pymesh_proxy.config.rbac import rbac
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.control.reporter import SLICE
from pymesh_proxy.control.secrets import SecretStore
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.listener import ListenerServer
from pymesh_proxy.origin import Origin
from pymesh_proxy.routing import Forward, RetryPolicy, Route, RouteTable, VirtualHost
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.telemetry.tracing import Sampling
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.connection import UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.retry import least_status, parse_retry_on, telling

REQUEST = (
    b"GET /reviews/1?full=true HTTP/1.1\r\nHost: reviews.default.svc.cluster.local:9080\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nX-Forwarded-For: 10.0.0.1\r\nCookie: session=abcdef0123456789; theme=dark\r\n"
    b"Cache-Control: no-cache\r\nX-Custom-Header: some value here\r\n"
    b"Authorization: Bearer abcdefghijklmnopqrstuvwxyz\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 22 Nov 2026 20:00:00 GMT\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 1024\r\nConnection: keep-alive\r\n\r\n" + b"x" * 1024
)
BODY = b"y" * 4096


def messages(count: int, *, post: bool, varied: bool) -> list[tuple[bytes, bytes]]:
    """Requests and their answers."""
    request, response = REQUEST, RESPONSE
    if post:
        end = b"\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        request = REQUEST.replace(b"GET", b"POST").replace(b"\r\n\r\n", end) + BODY
    if not varied:
        return [(request, response)] * count
    return [
        (request.replace(b"some value", b"value %04d" % number), response.replace(b"20:00:00", b"%08d" % number))
        for number in range(count)
    ]


class NullTransport(asyncio.Transport):
    """A transport that takes everything and does nothing."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.WriteTransport."""

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return False


READERS = {
    "rules": {
        "action": "ALLOW",
        "policies": {
            "readers": {
                "permissions": [
                    {
                        "and_rules": {
                            "rules": [
                                {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
                                {"url_path": {"path": {"prefix": "/reviews/"}}},
                            ]
                        }
                    }
                ],
                "principals": [{"direct_remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}],
            }
        },
    }
}
# Istio's default.
RETRY_ON = parse_retry_on("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes")
RETRY_CODES = frozenset({503})
RETRIES = RetryPolicy(
    RETRY_ON,
    attempts=2,
    status_codes=RETRY_CODES,
    least_status=least_status(RETRY_ON, RETRY_CODES),
    telling=telling(RETRY_ON),
)


async def prepare(
    logs: tuple[AccessLog, ...],
    tracing: Tracing | None,
    filters: tuple[HttpFilter, ...] = (),
    retry: RetryPolicy | None = None,
) -> tuple[DownstreamConnection, UpstreamConnection]:
    """A downstream connection, and the pooled upstream connection that its requests will take."""
    runtime = Runtime(asyncio.get_running_loop(), lambda: 0.5, SecretStore())
    endpoint = Endpoint("127.0.0.1", 80, peer=Peer("reviews-v1", "default", "reviews", "v1", "reviews", "v1", "c1"))
    service = ServiceFacts("reviews.default.svc.cluster.local", "reviews", "default")
    cluster = Cluster("service", Discovery.STATIC, endpoints=(endpoint,), service=service)
    route = Route("route", "host", "", lambda head: head.path.startswith(b"/"), Forward((("service", 1),), retry=retry))
    table = RouteTable("table", [VirtualHost("host", ("*",), (route,))])
    manager = HttpManager("bench", table, "", filters=filters, access_logs=logs, tracing=tracing)
    runtime.snapshot = Snapshot(1, {}, {}, {"service": cluster})
    upstream = UpstreamConnection(endpoint, None, lambda _: None)
    upstream.connection_made(NullTransport())
    upstream.requests = 1
    runtime.upstreams.follow(runtime.snapshot.clusters)
    runtime.upstreams.state(cluster)
    endpoint.idle.append(upstream)
    origin = Origin(ListenerServer(runtime, "bench"), runtime.generation, Direction.OUTBOUND, ("10.0.0.2", 2))
    facts = Facts("outbound", "10.0.0.1:1", "10.0.0.2:2")
    downstream = DownstreamConnection(runtime, manager, lambda _: facts, origin)
    downstream.connection_made(NullTransport())
    return downstream, upstream


async def main(options: argparse.Namespace) -> None:
    """Run the rounds."""
    logs: list[AccessLog] = [GrpcAccessLog("http", "collector", "bench")] if options.report else []
    tracing = None
    if options.trace is not None:
        tracing = Tracing("collector", "bench", Sampling(random=int(options.trace * 100)))
        logs.append(tracing)
    filters: tuple[HttpFilter, ...] = ()
    if options.features:
        logs.append(AccessLogFile("/dev/null", ISTIO_TEXT_FORMAT))
        filters = (rbac(ParseDict(READERS, RBAC()), "rbac"),)
    if options.rules:
        rules = {"rules": {"policies": policies(options.rules, callers="10.0.0.0")}}
        filters += (rbac(ParseDict(rules, RBAC()), "rbac"),)
    downstream, upstream = await prepare(tuple(logs), tracing, filters, RETRIES if options.features else None)

    exchanged = messages(SLICE, post=options.post, varied=options.varied)

    async def requests(count: int) -> None:
        for _ in range(count // SLICE):
            for request, response in exchanged:
                downstream.data_received(request)
                upstream.data_received(response)
            await asyncio.sleep(0)  # what is put off until after the requests costs, too

    await requests(2_000)
    if options.profile:
        profile = cProfile.Profile()
        profile.enable()
        await requests(50_000)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    rounds = []
    for _ in range(7):
        begun = process_time()
        await requests(20_000)
        rounds.append((process_time() - begun) / 20_000 * 1e6)
    print(f"{min(rounds):.1f} us per request (rounds: {', '.join(f'{value:.1f}' for value in rounds)})")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--varied", action="store_true")
    parser.add_argument("--post", action="store_true")
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--rules", type=int, default=0)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--trace", type=float)
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(arguments()))
