"""The scenarios that there are: what a row is made of stands in `scenario.py`. A new one is a row, and a folder."""

from typing import Final

from benchmarks.load.target import Request
from benchmarks.macro import policy, push
from benchmarks.macro.connections import MEMORY, churn, idle
from benchmarks.macro.generated import access_policies, last_of_many_routes
from benchmarks.macro.instruments import at_rate, both
from benchmarks.macro.mesh import PARTS, local_mesh
from benchmarks.macro.proxies import BASELINE, PYTHON, REFERENCE
from benchmarks.macro.sample import (
    BUSY,
    PERCENTILES,
    RSS_IDLE,
    RSS_LOADED,
    Unit,
    cost,
    part_of_cost,
    percentile,
    throughput,
)
from benchmarks.macro.scenario import SESSION, Goal, Kind, Scenario
from benchmarks.macro.streams import both_ways, echo
from benchmarks.macro.wrk import saturate

# What a browser's request looks like when it has come through one hop: ten headers, some 400 bytes.
BROWSER: Final = (
    ("Host", "reviews.default.svc.cluster.local:9080"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("Cookie", f"session={SESSION}; theme=dark"),
    ("Cache-Control", "no-cache"),
    ("X-Custom-Header", "some value here"),
    ("Authorization", "Bearer abcdefghijklmnopqrstuvwxyz"),
)
_GET: Final = Request("GET", BROWSER)
_POST_BYTES: Final = 4096
_BULK_BYTES: Final = 10_000_000

_PER_REQUEST: Final = (cost(Unit.REQUEST), throughput(Unit.REQUEST), BUSY)
_PER_CONNECTION: Final = (cost(Unit.CONNECTION), throughput(Unit.CONNECTION), BUSY)
_PER_GIGABYTE: Final = (cost(Unit.GIGABYTE), throughput(Unit.GIGABYTE), BUSY)
# First as much as it can, then at a rate that leaves room, for latencies.
_REQUESTS: Final = both(saturate(connections=32), at_rate(1000, connections=16))


def _cheaper(unit: Unit, target: float | None, stretch: float | None, against: str = REFERENCE) -> Goal:
    return Goal(cost(unit).name, target, stretch, against)


_ALL: Final = (
    Scenario(
        name="h1-plain",
        summary="GET over plaintext HTTP/1.1, kept alive on both sides, 10 request headers, 1 KiB back, 32 connections",
        unit=Unit.REQUEST,
        instrument=_REQUESTS,
        figures=_PER_REQUEST,
        latency=PERCENTILES,
        goals=(_cheaper(Unit.REQUEST, 0.60, 0.45), _cheaper(Unit.REQUEST, 0.20, 0.10, PYTHON)),
        request=_GET,
    ),
    Scenario(
        name="h1-tls",
        summary="the same, over TLS from the client to the proxy",
        unit=Unit.REQUEST,
        instrument=_REQUESTS,
        figures=_PER_REQUEST,
        latency=PERCENTILES,
        goals=(_cheaper(Unit.REQUEST, 0.65, 0.50), _cheaper(Unit.REQUEST, 0.20, 0.10, PYTHON)),
        request=_GET,
        tls=True,
    ),
    Scenario(
        name="pair-mtls",
        summary="the same through two proxies, as from pod to pod: plaintext, mutual TLS between them, plaintext",
        unit=Unit.REQUEST,
        instrument=saturate(connections=32),
        figures=(
            cost(Unit.REQUEST), part_of_cost("client", Unit.REQUEST), part_of_cost("server", Unit.REQUEST),
            throughput(Unit.REQUEST), BUSY,
        ),
        goals=(_cheaper(Unit.REQUEST, 0.70, 0.55),),
        request=_GET,
        hops=("client", "server"),
    ),
    Scenario(
        name="mesh",
        summary="the whole way in a local mesh: ingress gateway, mutual TLS, sidecar with a limit, app; telemetry on",
        unit=Unit.REQUEST,
        instrument=_REQUESTS,
        figures=(
            cost(Unit.REQUEST), *(part_of_cost(part, Unit.REQUEST) for part in PARTS), throughput(Unit.REQUEST), BUSY,
        ),
        latency=PERCENTILES,
        request=_GET,
        start=local_mesh,
    ),
    Scenario(
        name="post-fixed",
        summary="POST of 4 KiB with Content-Length, 1 KiB back, 32 connections",
        unit=Unit.REQUEST,
        instrument=_REQUESTS,
        figures=_PER_REQUEST,
        latency=PERCENTILES,
        goals=(_cheaper(Unit.REQUEST, 0.70, 0.50),),
        request=Request("POST", BROWSER, _POST_BYTES),
        folder_name="h1-plain",
    ),
    Scenario(
        name="post-chunked",
        summary="POST of 4 KiB in four chunks, 1 KiB back, 32 connections",
        unit=Unit.REQUEST,
        instrument=_REQUESTS,
        figures=_PER_REQUEST,
        latency=PERCENTILES,
        goals=(_cheaper(Unit.REQUEST, 0.70, 0.50),),
        request=Request("POST", BROWSER, _POST_BYTES, chunk_bytes=1024),
        folder_name="h1-plain",
    ),
    Scenario(
        name="bulk",
        summary="GET of 10 MB over plaintext HTTP/1.1, 8 connections",
        unit=Unit.GIGABYTE,
        instrument=saturate(connections=8),
        figures=_PER_GIGABYTE,
        goals=(_cheaper(Unit.GIGABYTE, 0.90, 0.70),),
        request=_GET,
        body_bytes=_BULK_BYTES,
        folder_name="h1-plain",
    ),
    Scenario(
        name="tcp-bulk",
        summary="the same bytes through tcp_proxy, to which they are opaque, 8 connections",
        unit=Unit.GIGABYTE,
        instrument=saturate(connections=8),
        figures=_PER_GIGABYTE,
        goals=(_cheaper(Unit.GIGABYTE, 0.90, 0.70),),
        request=_GET,
        body_bytes=_BULK_BYTES,
        folder_name="tcp",
    ),
    Scenario(
        name="tcp-both-ways",
        summary="bytes through tcp_proxy that all come back at the same time, 8 connections, both directions counted",
        unit=Unit.GIGABYTE,
        instrument=both_ways(connections=8),
        figures=_PER_GIGABYTE,
        goals=(_cheaper(Unit.GIGABYTE, 0.90, 0.70),),
        folder_name="tcp",
        setting=echo,
        asked=False,
    ),
    Scenario(
        name="tcp-connections",
        summary="tcp_proxy, a connection for every 1 KiB answer, 32 at a time",
        unit=Unit.CONNECTION,
        instrument=saturate(connections=32, close=True),
        figures=_PER_CONNECTION,
        goals=(_cheaper(Unit.CONNECTION, None, 1.0),),
        request=_GET,
        folder_name="tcp",
    ),
    Scenario(
        name="routes",
        summary="as h1-plain, with 1,000 virtual hosts of 10 routes each, of which the last one matches",
        unit=Unit.REQUEST,
        instrument=saturate(connections=32),
        figures=_PER_REQUEST,
        goals=(_cheaper(Unit.REQUEST, 0.70, 0.50),),
        request=Request("GET", (("Host", "host-999.example"), *BROWSER[1:])),
        path="/route-9/reviews/1?full=true",
        setting=last_of_many_routes(hosts=1000, routes=10),
    ),
    Scenario(
        name="features",
        summary="as h1-plain, with request ids, access log, metrics with all labels, a retry policy and an RBAC rule",
        unit=Unit.REQUEST,
        instrument=_REQUESTS,
        figures=_PER_REQUEST,
        latency=PERCENTILES,
        goals=(_cheaper(Unit.REQUEST, 0.65, 0.50),),
        request=_GET,
    ),
    Scenario(
        name="authz",
        summary="as h1-plain, with 20 access rules as AuthorizationPolicies compile to, of which the last one matches",
        unit=Unit.REQUEST,
        instrument=saturate(connections=32),
        figures=_PER_REQUEST,
        goals=(_cheaper(Unit.REQUEST, 1.10, None, BASELINE),),
        request=_GET,
        setting=access_policies(20),
    ),
    Scenario(
        name="policy-remembered",
        summary="as h1-plain, with a check in Python at the policy service, whose answer is remembered",
        unit=Unit.REQUEST,
        instrument=saturate(connections=32),
        figures=_PER_REQUEST,
        goals=(_cheaper(Unit.REQUEST, 1.15, None, BASELINE),),
        request=_GET,
        folder_name="policy",
        setting=policy.asking("Check", "remembered"),
        start=policy.with_and_without,
    ),
    Scenario(
        name="policy-leased",
        summary="as h1-plain, with a rate limit of which the sidecar holds a lease",
        unit=Unit.REQUEST,
        instrument=saturate(connections=32),
        figures=_PER_REQUEST,
        goals=(_cheaper(Unit.REQUEST, 1.15, None, BASELINE),),
        request=_GET,
        folder_name="policy",
        setting=policy.asking("RateLimit", "leased"),
        start=policy.with_and_without,
    ),
    Scenario(
        name="policy-asked",
        summary="as h1-plain, at 200 requests a second, with a rate limit that is asked about for each",
        unit=Unit.REQUEST,
        instrument=at_rate(200, connections=4),
        figures=PERCENTILES,
        goals=(Goal(percentile(50).name, 1.0, None, BASELINE, kind=Kind.ADDED),),
        request=_GET,
        folder_name="policy",
        setting=policy.asking("RateLimit", "asked"),
        start=policy.with_and_without,
    ),
    Scenario(
        name="policy-away",
        summary="as policy-asked, at 500 a second, of a service that stands still half of the time; it fails open",
        unit=Unit.REQUEST,
        instrument=at_rate(500, connections=16),
        figures=PERCENTILES,
        request=_GET,
        folder_name="policy",
        setting=policy.asking("RateLimit", "open", away=True),
        start=policy.with_and_without,
    ),
    Scenario(
        name="policy-asked-checks",
        summary="as many questions as one policy service answers, from 4 connections; and its handler in plain grpcio",
        unit=Unit.CHECK,
        instrument=policy.saturated_with_checks(connections=4, streams=16),
        figures=(throughput(Unit.CHECK), cost(Unit.CHECK), BUSY),
        goals=(Goal(throughput(Unit.CHECK).name, 4000, None, "", kind=Kind.AT_LEAST),),
        folder_name="policy",
        asked=False,
        start=policy.services,
    ),
    Scenario(
        name="churn-plain",
        summary="as h1-plain, with a connection for every request, 32 at a time",
        unit=Unit.CONNECTION,
        instrument=churn(connections=32),
        figures=_PER_CONNECTION,
        goals=(_cheaper(Unit.CONNECTION, None, 1.0),),
        request=_GET,
        folder_name="h1-plain",
    ),
    Scenario(
        name="churn-tls",
        summary="the same over TLS, each with a full handshake",
        unit=Unit.CONNECTION,
        instrument=churn(connections=32),
        figures=_PER_CONNECTION,
        goals=(_cheaper(Unit.CONNECTION, None, 1.0),),
        request=_GET,
        tls=True,
        folder_name="h1-tls",
    ),
    Scenario(
        name="churn-resumed",
        summary="the same, each taking up a TLS session of an earlier one",
        unit=Unit.CONNECTION,
        instrument=churn(connections=32, resume=True),
        figures=_PER_CONNECTION,
        goals=(_cheaper(Unit.CONNECTION, None, 1.0),),
        request=_GET,
        tls=True,
        folder_name="h1-tls",
    ),
    Scenario(
        name="idle",
        summary="1,000 connections that have had a request each and stay open",
        unit=Unit.CONNECTION,
        instrument=idle(connections=1000),
        figures=(*MEMORY, cost(Unit.CONNECTION)),
        goals=(Goal(RSS_IDLE, 0.80, 0.60), Goal(MEMORY[0].name, 0.80, 0.60), Goal(RSS_LOADED, 0.80, 0.60)),
        request=_GET,
        folder_name="h1-plain",
    ),
    Scenario(
        name="idle-tls",
        summary="the same over TLS",
        unit=Unit.CONNECTION,
        instrument=idle(connections=1000),
        figures=(*MEMORY, cost(Unit.CONNECTION)),
        goals=(Goal(MEMORY[0].name, 0.80, 0.60), Goal(RSS_LOADED, 0.80, 0.60)),
        request=_GET,
        tls=True,
        folder_name="h1-tls",
    ),
    Scenario(
        name="latency",
        summary="the pair of pair-mtls at 1,000 requests a second, 16 connections, timed from when each was due",
        unit=Unit.REQUEST,
        instrument=at_rate(1000, connections=16),
        figures=PERCENTILES,
        goals=tuple(Goal(percentile(percent).name, 1.1, 0.9) for percent in (50, 99)),
        request=_GET,
        folder_name="pair-mtls",
        hops=("client", "server"),
    ),
    Scenario(
        name="push",
        summary="1,000 clusters of 10 endpoints each, replaced over and over, at 1,000 requests a second",
        unit=Unit.REQUEST,
        instrument=push.replaced_under_load(),
        figures=(*push.FIGURES, cost(Unit.REQUEST)),
        goals=(Goal(push.STALL.name, 5.0, None, against=""), Goal(push.TIMES.name, 2.0, None, against="")),
        request=_GET,
        setting=push.control_plane,
        arguments=push.ARGUMENTS,
    ),
)  # fmt: skip
SCENARIOS: Final = {scenario.name: scenario for scenario in _ALL}


def choose(names: list[str]) -> tuple[list[Scenario], list[str]]:
    """The scenarios of these names, each once, in the table's order; and the names that are none.

    `post` stands for `post-fixed` and `post-chunked`. No names stand for all.
    """
    chosen = [each for each in _ALL if not names or any(_stands_for(name, each.name) for name in names)]
    unknown = [name for name in names if not any(_stands_for(name, each.name) for each in chosen)]
    return chosen, unknown


def _stands_for(name: str, scenario: str) -> bool:
    return scenario == name or scenario.startswith(f"{name}-")
