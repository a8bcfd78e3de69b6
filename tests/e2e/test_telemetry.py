"""What a mesh says of its traffic: the graph, the last requests, one request's journey, and Prometheus' view of it.

Everything is real: the proxies (one an Envoy), the collector, the policy service, the ingress gateway, Prometheus. The
tests share one mesh and run in this order: the first count what the fixture sent, the last take the collector down.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from pymesh_controlplane.cli.mesh import LocalMesh
from tests.support.mesh import PYMESH, Mesh
from tests.support.prometheus import prometheus
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.mesh]

MANIFESTS = Path(__file__).parent / "manifests" / "telemetry" / "mesh.yaml"
SHOP = "shop.default.svc.cluster.local"

# What the visitor asks the front for, which asks the shop: requests to v1, failing ones to v1, to v2 (an Envoy).
GOOD, BROKEN, ENVOYS = 30, 6, 9
TO_V1 = GOOD + BROKEN
ALL = TO_V1 + ENVOYS
# Connections of the front to the database; each sends a thousand bytes and is answered two thousand.
CONNECTIONS = 3
# Seconds for the end of a connection to be told of: Python's TLS cannot be closed by halves, so each proxy waits a bit.
CLOSED = 30.0

LIMIT = """
apiVersion: policy.pymesh.io/v1alpha1
kind: ConcurrencyLimit
metadata: {name: shop, namespace: default}
spec: {targetRefs: [{group: "", kind: Service, name: shop}], max: 50, failureMode: Open}
"""

CONNECT = """
import socket, sys
for _ in range(int(sys.argv[1])):
    with socket.create_connection(("db", 9000), 10) as connection:
        connection.sendall(b"x" * 1000)
        heard = 0
        while heard < 2000:
            heard += len(connection.recv(4096))
"""
# Asks for a number of times over one connection; prints how many were answered other than with 200. The long paths make
# long entries, which fill a queue soon.
LOAD = """
import http.client, sys
connection, bad = http.client.HTTPConnection("shop", timeout=30), 0
for _ in range(int(sys.argv[1])):
    connection.request("GET", "/?" + "x" * 6000)
    answer = connection.getresponse()
    answer.read()
    bad += answer.status != 200
print(bad)
"""


def ask(mesh: Mesh, path: str, count: int, *headers: str) -> None:
    """`count` requests of the visitor's by way of the front, one after the other; all are answered as they should."""
    options = [option for header in headers for option in ("-H", header)]
    url = f"http://web/chain?path={path}&n=[1-{count}]"
    heard = mesh.curl("visitor", "-o", "/dev/null", "-w", "%{http_code}\n", *options, url).stdout.split()
    assert heard == ["500" if path == "/broken" else "200"] * count


def load(mesh: Mesh, count: int) -> int:
    """How many of `count` requests of the front's to the shop went wrong."""
    return int(mesh.exec("web", "python3", "-c", LOAD, str(count)))


Edges = dict[tuple[str, str, str], dict[str, Any]]


def collector(mesh: Mesh, page: str, **query: object) -> Any:
    """What the collector says, as the commands ask it."""
    return LocalMesh(mesh.name).client.get(f"/telemetry/{page}?{urlencode(query)}")


def edges_of(document: dict[str, Any]) -> Edges:
    """The edges by source, destination and protocol."""
    return {
        (edge["source"]["workload"], edge["destination"]["workload"], edge["protocol"]): edge
        for edge in document["edges"]
    }


def requests(mesh: Mesh, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(mesh.run("requests", "-o", "json", *arguments).stdout)
    return found


def journey(mesh: Mesh, request_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mesh.run("journey", request_id, "-o", "json").stdout)
    return found


def hops(trees: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The pods of a journey, without the ends of their names, and what the request did there, in order."""
    return [
        hop
        for tree in trees
        for hop in [(tree["pod"].rpartition("-")[0] or tree["pod"], tree["direction"]), *hops(tree["then"])]
    ]


def dropped(mesh: Mesh, pod: str) -> float:
    """How many requests a sidecar could not report."""
    lines = mesh.admin(pod, "/stats/prometheus").splitlines()
    counters = [line for line in lines if line.startswith("pymesh_telemetry_dropped_total{") and "_http" in line]
    return sum(float(line.rpartition(" ")[2]) for line in counters)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A mesh that has had its traffic."""
    with Mesh(f"t{os.getpid()}", MANIFESTS) as running:
        # First what takes longest to be told of.
        running.exec("web", "python3", "-c", CONNECT, str(CONNECTIONS))
        ask(running, "/", GOOD)
        ask(running, "/broken", BROKEN)
        ask(running, "/", ENVOYS, "version: v2")
        yield running


def test_the_graph_has_every_edge_with_the_numbers_that_were_sent(mesh: Mesh) -> None:
    def complete() -> bool:
        edges = edges_of(collector(mesh, "graph", window=300))
        return {key: edge["requests"] for key, edge in edges.items()} == {
            ("unknown", "web", "http"): ALL,
            ("web", "shop-v1", "http"): TO_V1,
            ("web", "shop-v2", "http"): ENVOYS,
            ("web", "shop-v1", "tcp"): CONNECTIONS,
        }

    eventually_sync(complete, what="the graph", timeout=CLOSED)
    edges = edges_of(json.loads(mesh.run("graph", "--window", "5m", "-o", "json").stdout))
    visit, v1, v2 = edges["unknown", "web", "http"], edges["web", "shop-v1", "http"], edges["web", "shop-v2", "http"]
    db = edges["web", "shop-v1", "tcp"]
    assert (visit["reporter"], visit["mtls"], visit["failed"]) == ("destination", 0.0, BROKEN)
    for edge in (v1, v2, db):
        assert (edge["reporter"], edge["mtls"]) == ("source", 1.0)
        assert edge["source"] == {"workload": "web", "namespace": "default", "version": "v1"}
    assert (v1["failed"], v1["errors"], v2["errors"]) == (BROKEN, pytest.approx(BROKEN / TO_V1, abs=1e-4), 0.0)
    assert v2["destination"] == {"workload": "shop-v2", "namespace": "default", "version": "v2", "service": SHOP}
    for edge in (visit, v1, v2):
        assert 0 < edge["p50_ms"] <= edge["p99_ms"]
        assert edge["rate"] > 0
    assert visit["p50_ms"] > v1["p50_ms"]  # it contains the other
    assert (db["bytes_received"], db["bytes_sent"], db["p50_ms"]) == (1000 * CONNECTIONS, 2000 * CONNECTIONS, None)
    assert db["destination"]["service"] == "db.default.svc.cluster.local"

    assert "web.default  shop-v2.default  shop.default" in mesh.run("graph", "--window", "5m").stdout
    assert '"web.default" -> "shop-v2.default" [label=' in mesh.run("graph", "-o", "dot").stdout
    elsewhere = mesh.run("graph", "-n", "elsewhere")
    assert elsewhere.stdout.splitlines() == ["FROM  TO  SERVICE  PROTOCOL  RATE  ERRORS  P50  P99  MTLS"]
    assert "no traffic in the last" in elsewhere.stderr


def test_stats_tell_versions_and_subsets_apart(mesh: Mesh) -> None:
    stats = collector(mesh, "stats", service="shop", namespace="default", window=300)
    assert stats["service"] == SHOP
    for numbers in (stats["versions"], stats["subsets"]):
        assert {name: (found["requests"], found["failed"]) for name, found in numbers.items()} == {
            "v1": (TO_V1, BROKEN),
            "v2": (ENVOYS, 0),
        }


def test_requests_are_found_by_who_asked_whom_and_by_what_came_of_it(mesh: Mesh) -> None:
    last = requests(mesh, "--last", "5", "--to", "shop-v2")
    assert [(record["workload"], record["protocol"], record["status"]) for record in last] == [
        ("web", "HTTP/1.1", 200)
    ] * 5
    assert all(record["endpoint_labels"]["version"] == "v2" for record in last)
    everything = TO_V1 + ENVOYS + CONNECTIONS  # opaque connections are reported when they end, some seconds later
    eventually_sync(
        lambda: len(requests(mesh, "--to", "shop", "--last", "1000")) == everything, what="every request", timeout=30
    )
    failed = requests(mesh, "--status", "5xx", "--last", "100")
    assert len(failed) == 2 * BROKEN
    assert {record["request_id"] for record in failed if record["destination"]["workload"] == "web"} == {
        record["request_id"] for record in failed if record["destination"]["workload"] == "shop-v1"
    }
    assert requests(mesh, "--from", "shop") == []
    table = mesh.run("requests", "--last", "1", "--status", "500", "--to", "web").stdout.splitlines()
    assert table[1].split()[1:3] == [mesh.pod("visitor")["name"], "web"]
    assert "GET web/chain?path=/broken" in table[1]
    refused = mesh.run("requests", "--status", "bad", check=False)
    assert refused.returncode == 1
    assert "--status bad: as in 503, 5xx or 0" in refused.stderr


def test_following_shows_requests_as_they_come(mesh: Mesh) -> None:
    command = [PYMESH, "requests", "--mesh", mesh.name, "-f", "--last", "1", "--to", "shop-v2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as follower:
        assert follower.stdout is not None
        lines = [follower.stdout.readline() for _ in range(2)]
        assert lines[0].startswith("TIME")
        ask(mesh, "/", 1, "version: v2", "x-request-id: followed")
        assert "followed" in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
        assert follower.stdout.read() == ""


def test_a_journey_has_every_hop_with_its_times_and_the_answer_of_the_policy_service(mesh: Mesh) -> None:
    mesh.apply(LIMIT)

    def limited() -> bool:
        """Whether the sidecars know of the limit, and the policy service of them."""
        mesh.exec("web", "curl", "-s", "-H", f"x-request-id: {time.monotonic()}", "http://shop/")
        last = json.loads(mesh.admin("shop-v1", "/requests?limit=1"))
        return "slot" in last[0]["notes"].get("policy", "")

    eventually_sync(limited, what="the limit")
    ask(mesh, "/", 1, "x-request-id: the-journey")
    found = journey(mesh, "the-journey")
    assert found["source"] == "telemetry"
    assert hops(found["hops"]) == [("web", "inbound"), ("web", "outbound"), ("shop-v1", "inbound")]
    [arrived] = found["hops"]
    [sent] = arrived["then"]
    [shop] = sent["then"]
    assert shop["notes"]["policy"].startswith("ConcurrencyLimit default/shop: slot 1 of 50")
    for hop in (arrived, sent, shop):
        assert hop["phases_ms"].keys() == {"filters and route", "connection", "answer", "body"}
        assert sum(hop["phases_ms"].values()) == pytest.approx(hop["times_ms"]["end"], abs=0.01)
    assert arrived["times_ms"]["end"] > sent["times_ms"]["end"] > 0
    # Whoever was asked has his own clock, and looks at it a moment after his last byte was written.
    assert sent["times_ms"]["end"] > shop["times_ms"]["first_byte"] > 0
    text = mesh.run("journey", "the-journey").stdout
    assert "route     VirtualService default/shop http[1]" in text
    assert "peer      mTLS, spiffe://cluster.local/ns/default/sa/shop" in text
    assert "policy    ConcurrencyLimit default/shop: slot 1 of 50" in text

    unknown = mesh.run("journey", "nobody-s", check=False)
    assert unknown.returncode == 1
    assert "no proxy has a record of nobody-s" in unknown.stderr
    assert "pymesh requests lists them" in unknown.stderr


def test_the_hop_to_an_envoy_is_there_too(mesh: Mesh) -> None:
    ask(mesh, "/", 1, "version: v2", "x-request-id: to-envoy")
    found = journey(mesh, "to-envoy")
    assert hops(found["hops"])[-1] == ("shop-v2", "inbound")
    shop = found["hops"][0]["then"][0]["then"][0]
    assert (shop["source"]["workload"], shop["peer"]) == ("web", "spiffe://cluster.local/ns/default/sa/web")
    assert shop["original_destination"].endswith(":8080")


def test_a_journey_from_outside_begins_at_the_ingress_gateway(mesh: Mesh) -> None:
    [address] = [at for at, port in mesh.pod("ingressgateway")["host_ports"].items() if port == 8080]
    url = f"http://{address}/chain?path=/from-outside"
    asked = subprocess.run(["curl", "-sf", "-m", "10", "-H", "Host: web.example.com", url], capture_output=True)
    assert asked.returncode == 0

    [passed] = eventually_sync(lambda: collector(mesh, "requests", once=1, **{"from": "ingressgateway", "to": "web"}))
    found = journey(mesh, passed["request_id"])
    assert hops(found["hops"]) == [
        ("ingressgateway", "outbound"),
        ("web", "inbound"),
        ("web", "outbound"),
        ("shop-v1", "inbound"),
    ]
    text = mesh.run("journey", passed["request_id"]).stdout
    assert "ingressgateway ◀▶ web.example.com  GET /chain?path=/from-outside  200" in text


# --- Prometheus -----------------------------------------------------------------------------------------------------


def test_prometheus_scrapes_the_mesh_and_answers_what_kiali_asks(mesh: Mesh, tmp_path: Path) -> None:
    before = {key: edge["requests"] for key, edge in edges_of(collector(mesh, "graph", window=300)).items()}
    with prometheus(mesh, tmp_path) as query:

        def up() -> bool:
            return query("sum(up) by (job)") == {("pods",): annotated(mesh).count("15090"), ("pymesh",): 3}

        eventually_sync(up, timeout=20)
        edge = "reporter='source', destination_service_name='shop'"
        ends = "source_workload, destination_workload"
        rates = f"sum(rate(istio_requests_total{{{edge}}}[30s])) by ({ends}, response_code)"
        # A rate is made of two scrapes with requests between them.
        ask(mesh, "/", 4)
        ask(mesh, "/broken", 2)
        # Labels in the order of their names: destination, code, source.
        kinds = {("shop-v1", "200", "web"), ("shop-v1", "500", "web")}
        eventually_sync(lambda: kinds <= {labels for labels, rate in query(rates).items() if rate > 0}, timeout=20)

        total = query(f"sum(istio_requests_total{{reporter='source'}}) by ({ends})")
        assert total["shop-v1", "web"] == before["web", "shop-v1", "http"] + 6
        assert total["shop-v2", "web"] == before["web", "shop-v2", "http"]
        errors = f"sum(istio_requests_total{{{edge}, response_code=~'5..'}}) / sum(istio_requests_total{{{edge}}})"
        assert query(errors) == {(): pytest.approx((BROKEN + 2) / (total["shop-v1", "web"] + total["shop-v2", "web"]))}
        # Every proxy is scraped at a time of its own.
        of = "destination_workload, connection_security_policy"
        arrived = f"sum(istio_requests_total{{reporter='destination'}}) by ({of})"
        came = total["shop-v1", "web"]
        eventually_sync(lambda: query(arrived)["mutual_tls", "shop-v1"] == came, timeout=20)
        entered = before["unknown", "web", "http"] + 6
        eventually_sync(lambda: query(arrived)["none", "web"] == entered, timeout=20)
        buckets = f"sum(rate(istio_request_duration_milliseconds_bucket{{{edge}}}[30s])) by (le, destination_workload)"
        p99 = query(f"histogram_quantile(0.99, {buckets})")
        assert 0 < p99["shop-v1",] < 10_000
        tcp = (
            "sum(istio_tcp_connections_closed_total{reporter='source'}) by (destination_service_name, source_workload)"
        )
        assert query(tcp) == {("db", "web"): CONNECTIONS}
        assert query("sum(istio_tcp_sent_bytes_total{reporter='source'})") == {(): 2000 * CONNECTIONS}
        # The control plane is there; what the collector has of istio_* is left out, or all would count twice.
        assert query("sum(pilot_xds)")[()] >= 4
        assert query("count(pymesh_telemetry_entries_total)") == {(): 1}
        assert query("count(istio_requests_total{job='pymesh'})") == {}


def annotated(mesh: Mesh) -> list[str]:
    """The ports at which pods ask to be scraped."""
    pods = json.loads(mesh.run("get", "pods", "-o", "json").stdout)["items"]
    return [port for pod in pods if (port := pod["metadata"].get("annotations", {}).get("prometheus.io/port"))]


# --- without the collector ------------------------------------------------------------------------------------------


def test_a_collector_that_dies_costs_no_request_and_what_is_lost_is_told(mesh: Mesh) -> None:
    """First it is stopped until the sidecar's queue is full, then killed; its successor hears of the loss."""
    pid = mesh.pod("telemetry")["pids"]["telemetry"]
    os.kill(pid, signal.SIGSTOP)
    try:
        sent = 0
        while not dropped(mesh, "web"):
            assert load(mesh, 200) == 0
            sent += 200
            assert sent < 4_000, "nothing was dropped: where does it all go?"
        ask(mesh, "/", 1, "x-request-id: meanwhile")
        found = journey(mesh, "meanwhile")
        assert found["source"] == "sidecars"
        assert hops(found["hops"]) == [("web", "inbound"), ("web", "outbound"), ("shop-v1", "inbound")]
    finally:
        os.kill(pid, signal.SIGKILL)
    assert load(mesh, 100) == 0

    def recovered() -> int:
        ask(mesh, "/", 1, "x-request-id: afterwards")
        assert journey(mesh, "afterwards")["source"] == "telemetry"
        lost: int = collector(mesh, "graph")["lost"]
        assert lost == sum(dropped(mesh, pod) for pod in ("web", "shop-v1")) > 0
        return lost

    lost = eventually_sync(recovered, what="the collector's successor", timeout=30)
    assert f"{lost} reports were lost on their way" in mesh.run("graph").stderr
    assert mesh.pod("telemetry")["restarts"] == 1


def test_a_mesh_without_a_collector_remembers_in_its_sidecars(tmp_path: Path) -> None:
    few = [
        document
        for document in yaml.safe_load_all(MANIFESTS.read_text())
        if (document["kind"], document["metadata"]["name"])
        not in {
            ("Gateway", "entrance"),
            ("VirtualService", "web"),
            ("Deployment", "shop-v2"),
        }
    ]
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump_all(few))
    (tmp_path / "app.py").write_text(MANIFESTS.with_name("app.py").read_text())
    with Mesh(f"u{os.getpid()}", tmp_path / "mesh.yaml", without="telemetry,policy,ingress,egress") as mesh:
        ask(mesh, "/", 1, "x-request-id: alone")
        done = mesh.run("journey", "alone", "-o", "json")
        found = json.loads(done.stdout)
        assert found["source"] == "sidecars"
        assert "this mesh runs without telemetry" in done.stderr
        assert "asked the sidecars" in done.stderr
        assert hops(found["hops"]) == [("web", "inbound"), ("web", "outbound"), ("shop-v1", "inbound")]
        refused = mesh.run("graph", check=False)
        assert refused.returncode == 1
        assert refused.stderr == (
            "pymesh: this mesh runs without telemetry (pymesh up starts it, unless --without leaves it out)\n"
        )
