"""Records → series: what a request was for where no cluster says it, and what is kept. See test_workloads."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pymesh.peer_metadata import NO_SERVICE, Peer, ServiceFacts
from pymesh.steps import whole
from pymesh_proxy.errors import Flag
from pymesh_proxy.routing import DirectResponse, Route
from pymesh_proxy.telemetry.istio_metrics import IstioReporter
from pymesh_proxy.telemetry.peers import Peers
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts

OWN = Peer("reviews-v1", "shop", "reviews", "v1", "reviews", "v1", "Kubernetes")
REVIEWS = ServiceFacts("reviews.shop.svc.cluster.local", "reviews", "shop")


def peers(*, sidecar: bool = True) -> Peers:
    made = Peers()
    made.introduce(
        OWN, pod="p", node_id="sidecar~1~p~d", principal="spiffe://cluster.local/ns/shop/sa/r", sidecar=sidecar
    )
    return made


def record(direction: str = "outbound", *, authority: str = "", route: str = "", **values: object) -> RequestRecord:
    made = RequestRecord(Facts(direction, "10.0.0.1:1", "10.0.0.2:2"), 0.0, 1.0)
    made.t_end, made.status = 1.002, 200
    made.said = b"GET", authority.encode(), b"/"
    if route:
        made.matched = Route(route, "host", "", lambda _: True, DirectResponse(200))
    for name, value in values.items():
        setattr(made, name, value)
    return made


def counted(reporter: IstioReporter, name: str = "istio_requests_total") -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(whole(reporter.writing()))
    return [(dict(s.labels), s.value) for family in families for s in family.samples if s.name == name]


@pytest.mark.parametrize(
    ("direction", "values", "service"),
    [
        ("outbound", {"service": REVIEWS, "authority": "other"}, REVIEWS),
        (
            "outbound",
            {"route": "allow_any", "service": ServiceFacts(name="PassthroughCluster"), "authority": "Example.com"},
            ServiceFacts("example.com", "PassthroughCluster", "unknown"),
        ),
        (
            "outbound",
            {"route": "block_all", "authority": "example.com"},
            ServiceFacts("example.com", "BlackHoleCluster", "unknown"),
        ),
        ("outbound", {"authority": "a.b:80"}, ServiceFacts("a.b:80", "a.b:80", "unknown")),
        ("outbound", {"authority": "a" * 254}, NO_SERVICE),
        ("outbound", {"service": ServiceFacts(name="BlackHoleCluster")}, ServiceFacts(name="BlackHoleCluster")),
        (
            "inbound",
            {"service": ServiceFacts(name="InboundPassthroughCluster"), "authority": "forged"},
            ServiceFacts("reviews", "InboundPassthroughCluster", "shop"),
        ),
        ("inbound", {"authority": "forged"}, ServiceFacts("reviews", "reviews", "shop")),
    ],
)
def test_what_a_request_was_for(direction: str, values: dict[str, object], service: ServiceFacts) -> None:
    made = record(direction, **values)
    known = peers()
    known.settle(made)
    assert made.service == service
    known.settle(made)
    assert made.service == service


def test_at_a_gateway_no_outsider_makes_up_services() -> None:
    made = record(authority="a.example", facts=Facts("outbound", "a", "b"))
    peers(sidecar=False).settle(made)
    assert made.service == NO_SERVICE


def test_every_outcome_has_its_own_series_and_adds_up() -> None:
    reporter = IstioReporter(peers())
    for status, flag in ((200, Flag.NONE), (200, Flag.NONE), (503, Flag.UPSTREAM_CONNECTION_FAILURE), (0, Flag.NONE)):
        reporter.request(record(service=REVIEWS, status=status, flag=flag))
    found = {(labels["response_code"], labels["response_flags"]): value for labels, value in counted(reporter)}
    assert found == {("200", "-"): 2, ("503", "UF"): 1, ("0", "-"): 1}


def test_a_request_that_was_retried_in_vain_says_so() -> None:
    reporter = IstioReporter(peers())
    limit, overflow = Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED, Flag.UPSTREAM_OVERFLOW
    for flag, gave_up in (
        (Flag.NONE, limit), (Flag.UPSTREAM_REQUEST_TIMEOUT, limit), (Flag.UPSTREAM_REQUEST_TIMEOUT, Flag.NONE),
        (overflow, overflow),
    ):  # fmt: skip
        reporter.request(record(service=REVIEWS, status=503, flag=flag, gave_up=gave_up))
    found = [labels["response_flags"] for labels, _ in counted(reporter)]
    assert sorted(found) == ["UO", "URX", "URX,UT", "UT"]


def test_nothing_grows_without_bounds() -> None:
    reporter = IstioReporter(peers(), limit=3)
    for number in range(50):
        reporter.request(record(service=ServiceFacts(f"{number}.example", "PassthroughCluster")))
    assert len(reporter._requests) == 3
    assert sum(value for _, value in counted(reporter)) == 50


class Flow:
    def __init__(self) -> None:
        self.record = record(service=REVIEWS)
        self.bytes = (0, 0)

    def moved(self) -> tuple[int, int]:
        return self.bytes


def test_a_connection_that_never_reached_its_upstream_is_opened_and_closed() -> None:
    reporter, flow = IstioReporter(peers()), Flow()
    flow.record.flag = Flag.UPSTREAM_CONNECTION_FAILURE
    flow.bytes = (7, 0)
    reporter.closed(flow)
    for name, value in (("connections_opened", 1), ("connections_closed", 1), ("received_bytes", 7)):
        [(labels, found)] = counted(reporter, f"istio_tcp_{name}_total")
        assert (labels["response_flags"], found) == ("UF", value)


def test_open_connections_are_let_go() -> None:
    reporter, flow = IstioReporter(peers()), Flow()
    reporter.opened(flow)
    flow.bytes = (1, 2)
    assert [value for _, value in counted(reporter, "istio_tcp_sent_bytes_total")] == [2]
    flow.bytes = (1, 5)
    reporter.closed(flow)
    assert [value for _, value in counted(reporter, "istio_tcp_sent_bytes_total")] == [5]
    assert not reporter._open
