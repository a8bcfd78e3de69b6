"""Counting what is reported, and answering for the last seconds."""

import random

import pytest

from pymesh_controlplane.telemetry import graph
from pymesh_controlplane.telemetry.graph import KEEP, MAX_EDGES, OTHER, Edge, Party, Traffic

REVIEWS = "reviews.bookinfo.svc.cluster.local"
PAGE = Party("productpage-v1", "bookinfo", "v1")
V1, V2 = Party("reviews-v1", "bookinfo", "v1"), Party("reviews-v2", "bookinfo", "v2")
TO_V1, TO_V2 = Edge(PAGE, V1, REVIEWS, "v1"), Edge(PAGE, V2, REVIEWS, "v2")


def test_an_edge_tells_rate_errors_percentiles_and_the_share_under_mtls() -> None:
    traffic = Traffic(100.0)
    for number in range(100):
        traffic.add(
            105.0 + number / 25,
            TO_V1,
            "source",
            failed=number < 5,
            mtls=number >= 50,
            milliseconds=number + 1,
            received=1,
            sent=10,
        )
    document = traffic.graph(110.0, 60)
    assert document["window"] == 60
    assert document["covered"] == 10.0  # the collector is no older
    [edge] = document["edges"]
    assert edge["p50_ms"] == pytest.approx(50, rel=0.026)
    assert edge["p99_ms"] == pytest.approx(99, rel=0.026)
    del edge["p50_ms"], edge["p99_ms"]
    assert edge == {
        "source": {"workload": "productpage-v1", "namespace": "bookinfo", "version": "v1"},
        "destination": {"workload": "reviews-v1", "namespace": "bookinfo", "version": "v1", "service": REVIEWS},
        "protocol": "http",
        "reporter": "source",
        "rate": 10.0,
        "mtls": 0.5,
        "requests": 100,
        "failed": 5,
        "errors": 0.05,
        "bytes_received": 100,
        "bytes_sent": 1000,
    }


def test_percentiles_are_within_their_promise_for_any_durations() -> None:
    dice = random.Random(7)
    durations = sorted(dice.lognormvariate(2, 2) for _ in range(999))
    traffic = Traffic(0.0)
    for duration in durations:
        traffic.add(1.0, TO_V1, "source", milliseconds=duration)
    [edge] = traffic.graph(2.0, 10)["edges"]
    assert edge["p50_ms"] == pytest.approx(durations[499], rel=0.026)
    assert edge["p99_ms"] == pytest.approx(durations[989], rel=0.026)


@pytest.mark.parametrize("milliseconds", [0.0, -1.0, 1e-9, 1e12])
def test_no_duration_is_beyond_the_classes(milliseconds: float) -> None:
    traffic = Traffic(0.0)
    traffic.add(1.0, TO_V1, "source", milliseconds=milliseconds)
    [edge] = traffic.graph(1.0, 10)["edges"]
    assert 0 < edge["p50_ms"] < 1e7


def test_a_request_that_both_ends_report_counts_once() -> None:
    traffic = Traffic(0.0)
    traffic.add(1.0, TO_V1, "source", failed=True)
    traffic.add(1.0, TO_V1._replace(subset=""), "destination")
    [edge] = traffic.graph(2.0, 10)["edges"]
    assert (edge["reporter"], edge["requests"], edge["errors"]) == ("source", 1, 1.0)
    assert traffic.stats(2.0, 10, "reviews", "bookinfo")["versions"]["v1"]["requests"] == 1


def test_the_destination_is_believed_where_the_source_has_no_sidecar() -> None:
    traffic = Traffic(0.0)
    traffic.add(1.0, TO_V1, "source")
    traffic.add(1.0, TO_V1._replace(subset=""), "destination")
    traffic.add(1.0, Edge(Party(), V1, REVIEWS), "destination")
    edges = traffic.graph(2.0, 10)["edges"]
    assert {(edge["source"]["workload"], edge["reporter"]) for edge in edges} == {
        ("productpage-v1", "source"),
        ("unknown", "destination"),
    }


def test_a_destination_that_knows_less_tells_of_the_same_request() -> None:
    traffic = Traffic(0.0)
    traffic.add(1.0, TO_V1, "source")
    # Opaque bytes: of the source no more than its namespace. An Envoy: not which service was asked for.
    traffic.add(1.0, Edge(Party(namespace="bookinfo"), V1, REVIEWS, protocol="tcp"), "destination", mtls=True)
    traffic.add(1.0, Edge(PAGE, V1, graph.UNKNOWN), "destination", mtls=True)
    [edge] = traffic.graph(2.0, 10)["edges"]
    assert (edge["reporter"], edge["requests"]) == ("source", 1)
    # But not of somebody else's.
    traffic.add(1.0, Edge(Party(namespace="shop"), V1, REVIEWS), "destination", mtls=True)
    traffic.add(1.0, Edge(Party(), V1, REVIEWS), "destination")
    traffic.add(1.0, Edge(Party(namespace="bookinfo"), V2, REVIEWS), "destination", mtls=True)
    assert sum(edge["reporter"] == "destination" for edge in traffic.graph(2.0, 10)["edges"]) == 3


def test_what_is_older_than_the_window_does_not_count() -> None:
    traffic = Traffic(0.0)
    for second in range(100):
        traffic.add(second + 0.5, TO_V1, "source")
    document = traffic.graph(100.0, 10)
    assert (document["edges"][0]["requests"], document["edges"][0]["rate"], document["covered"]) == (10, 1.0, 10.0)
    assert traffic.graph(1000.0, 10)["edges"] == []
    assert traffic.graph(100.0, 1e9)["window"] == KEEP
    assert traffic.graph(100.0, -5)["window"] == 1


def test_minutes_later_nothing_is_kept_of_it() -> None:
    traffic = Traffic(0.0)
    traffic.add(1.0, TO_V1, "source")
    for second in range(2, KEEP + 2):
        traffic.add(float(second), TO_V2, "source")
    document = traffic.graph(KEEP + 1.5, KEEP)
    assert [edge["destination"]["version"] for edge in document["edges"]] == ["v2"]


def test_only_the_edges_of_a_namespace() -> None:
    traffic = Traffic(0.0)
    other = Party("db", "data", "v1")
    traffic.add(1.0, TO_V1, "source")
    traffic.add(1.0, Edge(V1, other, "db.data.svc.cluster.local"), "source")
    assert len(traffic.graph(2.0, 10)["edges"]) == 2
    [edge] = traffic.graph(2.0, 10, "data")["edges"]
    assert edge["destination"]["workload"] == "db"


def test_stats_by_version_and_by_subset() -> None:
    traffic = Traffic(0.0)
    traffic.add(1.0, TO_V1, "source", milliseconds=10)
    traffic.add(1.0, TO_V2, "source", milliseconds=20)
    # Nobody is behind v2 any more: the route chose it, and no pod ever saw the request.
    traffic.add(1.5, Edge(PAGE, Party(), REVIEWS, "v2"), "source", failed=True, milliseconds=0.5)
    traffic.add(1.5, Edge(PAGE, V1, "details.bookinfo.svc.cluster.local"), "source")
    stats = traffic.stats(2.0, 30, "reviews", "bookinfo")
    assert stats["service"] == REVIEWS
    versions, subsets = stats["versions"], stats["subsets"]
    assert {name: (numbers["requests"], numbers["errors"]) for name, numbers in versions.items()} == {
        "v1": (1, 0.0),
        "v2": (1, 0.0),
        "unknown": (1, 1.0),
    }
    assert {name: (numbers["requests"], numbers["errors"]) for name, numbers in subsets.items()} == {
        "v1": (1, 0.0),
        "v2": (2, 0.5),
    }
    assert versions["v1"]["p50_ms"] == pytest.approx(10, rel=0.026)
    assert traffic.stats(2.0, 30, REVIEWS, "")["versions"] == versions
    assert traffic.stats(2.0, 30, "reviews", "elsewhere")["versions"] == {}


def test_subsets_are_no_edges_of_their_own() -> None:
    traffic = Traffic(0.0)
    traffic.add(1.0, TO_V1, "source")
    traffic.add(1.0, TO_V1._replace(subset="stable"), "source")
    [edge] = traffic.graph(2.0, 10)["edges"]
    assert edge["requests"] == 2


def test_edges_beyond_the_bound_are_counted_together() -> None:
    traffic = Traffic(0.0)
    for number in range(MAX_EDGES + 10):
        traffic.add(1.0, TO_V1._replace(service=f"s{number}"), "source")
    document = traffic.graph(1.5, 10)
    assert len(document["edges"]) == MAX_EDGES + 1
    assert document["edges"][0]["requests"] == 10
    assert document["edges"][0]["destination"]["service"] == OTHER.service
    assert traffic.overflowed == 10


def test_of_too_many_edges_the_busiest_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_ANSWERED", 2)
    traffic = Traffic(0.0)
    for name in ("a", "b", "b", "c", "c", "c"):
        traffic.add(1.0, TO_V1._replace(service=name), "source")
    document = traffic.graph(1.5, 10)
    assert [edge["destination"]["service"] for edge in document["edges"]] == ["c", "b"]
    assert document["omitted"] == 1
    assert traffic.graph(1.5, 10, "elsewhere")["omitted"] == 0


def test_seconds_with_many_edges_push_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_CELLS", 100)
    traffic = Traffic(0.0)
    for second in range(20):
        for number in range(10):
            traffic.add(second + 0.5, TO_V1._replace(service=f"s{number}"), "source")
    document = traffic.graph(20.0, 60)
    assert document["covered"] == pytest.approx(10, abs=1)
    assert document["edges"][0]["requests"] == pytest.approx(10, abs=1)
    assert document["edges"][0]["rate"] == pytest.approx(1.0)
