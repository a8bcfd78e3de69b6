"""The collector's edges → a table, and Graphviz' language."""

from typing import Any

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli import graph
from pymesh_controlplane.telemetry.graph import Edge, Party, Traffic

PAGE, V1 = Party("productpage-v1", "bookinfo", "v1"), Party("reviews-v1", "bookinfo", "v1")
REVIEWS = "reviews.bookinfo.svc.cluster.local"


def document() -> dict[str, Any]:
    traffic = Traffic(0.0)
    for number in range(100):
        traffic.add(9.0, Edge(PAGE, V1, REVIEWS), "source", mtls=True, milliseconds=10.0, failed=number == 0)
    traffic.add(9.0, Edge(PAGE, Party(), "api.example.com"), "source", milliseconds=2500.0)
    traffic.add(9.0, Edge(Party(), PAGE, "page.bookinfo.svc.cluster.local", "", "tcp"), "destination")
    return {**traffic.graph(10.0, 60), "lost": 0, "streams": 2}


def test_the_table() -> None:
    p50 = document()["edges"][0]["p50_ms"]
    assert graph.rows(document()["edges"]) == [
        ["productpage-v1.bookinfo", "reviews-v1.bookinfo", "reviews.bookinfo", "http", "10.0/s", "1%",
         f"{p50:.1f}ms", f"{p50:.1f}ms", "100%"],
        ["productpage-v1.bookinfo", "unknown", "api.example.com", "http", "0.1/s", "0%", "2.47s", "2.47s", "0%"],
        ["unknown", "productpage-v1.bookinfo", "page.bookinfo", "tcp", "0.1/s", "0%", "-", "-", "0%"],
    ]  # fmt: skip


def test_graphviz() -> None:
    lines = graph.dot(document()["edges"]).splitlines()
    assert lines[0] == "digraph mesh {"
    assert lines[-1] == "}"
    edges = {line.partition(" [")[0].strip(): line for line in lines if "->" in line}
    assert "1% errors" in edges['"productpage-v1.bookinfo" -> "reviews-v1.bookinfo"']
    assert "color=red" in edges['"productpage-v1.bookinfo" -> "reviews-v1.bookinfo"']
    assert "style=dashed" not in edges['"productpage-v1.bookinfo" -> "reviews-v1.bookinfo"']
    assert "style=dashed" in edges['"productpage-v1.bookinfo" -> "api.example.com"']


def test_names_cannot_break_out_of_what_is_printed() -> None:
    [edge, *_] = document()["edges"]
    edge = {**edge, "source": {"workload": 'a"]; x\x1b[2J\\', "namespace": "n", "version": ""}}
    assert '"a\\"]; x\\\\x1b[2J\\\\.n" -> ' in graph.dot([edge])
    assert graph.rows([edge])[0][0] == 'a"]; x\\x1b[2J\\.n'


@pytest.mark.parametrize(("share", "text"), [(0, "0%"), (0.00004, "<0.1%"), (0.005, "0.5%"), (1, "100%")])
def test_small_shares_are_not_shown_as_none(share: float, text: str) -> None:
    assert graph._share(share) == text


def test_what_is_not_in_the_graph_is_said() -> None:
    assert graph.remarks(document()) == []
    assert "no traffic in the last 60 s" in graph.remarks({"edges": [], "covered": 60.0, "lost": 0, "omitted": 0})[0]
    assert "17 reports were lost" in graph.remarks({**document(), "lost": 17})[0]
    assert graph.remarks({**document(), "omitted": 3}) == ["3 more edges, of the fewest requests, are not shown"]


@pytest.mark.parametrize("window", ["", "soon", "5", "0s"])
def test_a_window_is_a_duration(window: str) -> None:
    with pytest.raises(MeshError, match="a duration, as in 30s or 5m"):
        graph._seconds(window)


def test_a_window_is_within_what_is_kept() -> None:
    assert graph._seconds("5m") == 300
    with pytest.raises(MeshError, match="--window 1h: the collector keeps the last 5 minutes"):
        graph._seconds("1h")
