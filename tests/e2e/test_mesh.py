"""What a mesh is for: identity, encryption, routing, and staying up. Real pods, real sidecars, one of them Envoy."""

import json
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from os import kill
from pathlib import Path

import pytest

from tests.support.mesh import PYMESH, Mesh
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.mesh]

CLIENT = "spiffe://cluster.local/ns/default/sa/client"
ECHO = "spiffe://cluster.local/ns/default/sa/echo"
DEFAULT = "spiffe://cluster.local/ns/default/sa/default"

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
"""

# Asks `url` for a number of times over one connection and counts who answered with what: a status, or an exception.
LOAD = """
import collections, http.client, json, sys
host, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen, connection = collections.Counter(), http.client.HTTPConnection(host, timeout=10)
for number in range(count):
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        seen[json.loads(body)["pod"][:7] if answer.status == 200 else str(answer.status)] += 1
    except (OSError, http.client.HTTPException) as error:
        seen[type(error).__name__] += 1
        connection.close()
print(json.dumps(seen))
"""

# Asks `url` for as long as one connection lasts, and says what the first and the last answer was.
KEPT = """
import http.client, sys, time
connection, statuses = http.client.HTTPConnection(sys.argv[1], timeout=10), []
connection.connect()
while connection.sock is not None:
    connection.request("GET", "/kept")
    answer = connection.getresponse()
    answer.read()
    statuses.append(answer.status)
    time.sleep(0.02)
print(statuses[0], statuses[-1])
"""


def load(mesh: Mesh, pod: str, host: str, path: str, count: int) -> Counter[str]:
    """Who answered `count` requests."""
    return Counter(json.loads(mesh.exec(pod, "python3", "-c", LOAD, host, path, str(count))))


def caller(mesh: Mesh, pod: str, url: str) -> str:
    """The x-forwarded-client-cert that the app behind `url` is shown."""
    heard = json.loads(mesh.curl(pod, "-H", "x-forwarded-client-cert: By=me;URI=spiffe://liar", url).stdout)
    return str(heard["headers"].get("x-forwarded-client-cert", ""))


def virtual_service(routes: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: echo, namespace: default}}
spec:
  hosts: [echo]
  http:
{routes}
"""


@contextmanager
def applied(mesh: Mesh, manifest: str) -> Iterator[None]:
    mesh.apply(manifest)
    try:
        yield
    finally:
        mesh.delete(manifest)


# --- Identity and encryption ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "service", "identity"),
    [
        ("client", "echo", f'By={ECHO};Hash=[0-9a-f]{{64}};Subject="";URI={CLIENT}'),
        ("client", "enveloped", f'By={DEFAULT};Hash=[0-9a-f]{{64}};Subject="";URI={CLIENT}'),
        ("enveloped", "echo", f'By={ECHO};Hash=[0-9a-f]{{64}};Subject="";URI={DEFAULT}'),
        ("outsider", "echo", ""),
        ("client", "outsider", ""),
    ],
)
def test_an_app_sees_who_calls_it_and_nobody_can_lie_about_that(
    mesh: Mesh, pod: str, service: str, identity: str
) -> None:
    if service == "outsider":
        heard = json.loads(mesh.curl(pod, "http://outsider/").stdout)
        assert "x-forwarded-client-cert" not in heard["headers"]
    else:
        assert re.fullmatch(identity, caller(mesh, pod, f"http://{service}/"))


@pytest.mark.parametrize(("pod", "encrypted"), [("client", True), ("outsider", False)])
def test_between_sidecars_the_wire_shows_tls_and_nothing_else(
    mesh: Mesh, tmp_path: Path, pod: str, encrypted: bool
) -> None:
    capture = tmp_path / "wire.pcap"
    tcpdump = ["ip", "netns", "exec", mesh.namespace_of(pod), "tcpdump", "-i", "eth0", "-U", "-w", str(capture)]
    running = subprocess.Popen([*tcpdump, "tcp port 8080 or tcp port 80"], stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        assert any("listening on" in line for line in iter(running.stderr.readline, ""))
        heard = [mesh.curl(pod, "http://echo/the-secret-path").stdout for _ in range(3)]
        eventually_sync(lambda: capture.stat().st_size > 1000, what="packets in the capture")
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=10)
    finally:
        running.kill()
        running.communicate()
    assert all("the-secret-path" in text for text in heard)
    wire = capture.read_bytes()
    assert (b"the-secret-path" in wire) is not encrypted
    assert (b"\x17\x03\x03" in wire) is encrypted


def _ca(mesh: Mesh, command: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [PYMESH, "ca", command, "--mesh", mesh.name, *options], capture_output=True, text=True, timeout=60
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def test_the_root_is_replaced_under_traffic(mesh: Mesh) -> None:
    """In the real mesh, with its own components and a real Envoy: nobody is cut off, and all have new certificates."""
    ways = [("client", "echo"), ("client", "enveloped"), ("enveloped", "echo")]
    before = json.loads(_ca(mesh, "status", "-o", "json").stdout)
    assert _ca(mesh, "rotate").stdout.startswith("distribute: a new root is made")
    early = _ca(mesh, "rotate", check=False)
    assert (early.returncode, "sign would be too early" in early.stderr) == (1, True), early.stderr
    with ThreadPoolExecutor() as pool:
        rotating = pool.submit(_ca, mesh, "rotate", "--wait", "--timeout", "50")
        answered = Counter[str]()
        while not rotating.done():
            for heard in pool.map(lambda way: load(mesh, way[0], way[1], "/", 5), ways):
                answered += heard
    assert rotating.result().stdout.splitlines()[-1] == "retire: only the new root is trusted; the rotation is complete"
    assert {name[:4] for name in answered} == {"echo", "enve"}, answered
    after = json.loads(_ca(mesh, "status", "-o", "json").stdout)
    (root,) = after["roots"]
    assert root not in before["roots"]
    assert {item["certificateOf"] for item in after["workloads"]} == {root["fingerprint"]}
    assert {item["pod"] for item in after["workloads"]} >= set(after["expected"]) != set()
    assert all(caller(mesh, pod, f"http://{service}/") for pod, service in ways)


@contextmanager
def _kept(mesh: Mesh, pool: ThreadPoolExecutor) -> Iterator[Future[str]]:
    """The outsider keeps a connection to echo, on which requests are answered."""
    asking = pool.submit(mesh.exec, "outsider", "python3", "-c", KEPT, "echo")
    pods = [pod["name"] for pod in mesh.pods() if pod["name"].startswith("echo")]
    eventually_sync(lambda: any("/kept" in mesh.admin(pod, "/requests") for pod in pods), what="the first answer")
    yield asking


def test_strict_refuses_who_has_no_certificate_and_nobody_else(mesh: Mesh) -> None:
    with ThreadPoolExecutor() as pool, _kept(mesh, pool) as kept, applied(mesh, STRICT):
        assert kept.result(timeout=20).split() == ["200", "421"], "nor on a connection that was open before"
        eventually_sync(lambda: mesh.status_of("outsider", "http://echo/") == "000", what="the outsider to be refused")
        assert mesh.status_of("client", "http://echo/") == "200"
        assert mesh.status_of("enveloped", "http://echo/") == "200"
        eventually_sync(lambda: mesh.status_of("outsider", "http://enveloped/") == "000", what="Envoy to refuse it too")
        undeclared = mesh.curl("outsider", f"http://{mesh.pod('echo-v1')['ip']}:15090/stats/prometheus")
        assert undeclared.returncode == 0, "the metrics port is no app's port"
    eventually_sync(lambda: mesh.status_of("outsider", "http://echo/") == "200", what="the outsider to be let in again")


def test_a_foreign_destination_through_a_neighbour_is_refused(mesh: Mesh) -> None:
    """The outsider would borrow the client's identity if the client's sidecar carried this on."""
    target, neighbour = mesh.pod("echo-v1")["ip"], mesh.pod("client")["ip"]
    route = [f"{target}/32", "via", neighbour, "dev", "eth0", "onlink"]
    mesh.in_pod("outsider", "ip", "route", "add", *route)
    try:
        assert mesh.status_of("outsider", f"http://{target}:8080/") == "000"
        metrics = mesh.admin("client", "/stats/prometheus")
        assert re.search(r'pymesh_listener_refused_total\{.*reason="not_for_this_pod"\} [1-9]', metrics)
    finally:
        mesh.in_pod("outsider", "ip", "route", "del", *route)
    assert mesh.status_of("outsider", f"http://{target}:8080/") == "200"


# --- Names and routes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["echo", "echo.default", "echo.default.svc", "echo.default.svc.cluster.local"])
@pytest.mark.parametrize("pod", ["client", "outsider", "enveloped"])
def test_every_form_of_a_service_s_name_works_for_any_client(mesh: Mesh, pod: str, host: str) -> None:
    assert mesh.status_of(pod, f"http://{host}/") == "200"


def test_requests_are_routed_by_header_and_by_path(mesh: Mesh) -> None:
    routes = """
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: echo, subset: v2}}]
  - match: [{uri: {prefix: /new}}]
    rewrite: {uri: /old}
    route: [{destination: {host: echo, subset: v2}}]
  - route: [{destination: {host: echo, subset: v1}}]
"""
    with applied(mesh, virtual_service(routes)):
        for pod in ("client", "enveloped"):

            def ask(path: str, *headers: str, pod: str = pod) -> tuple[str, str]:
                heard = json.loads(mesh.curl(pod, *headers, f"http://echo{path}").stdout)
                return heard["pod"][:7], heard["path"]

            eventually_sync(lambda ask=ask: ask("/new/x") == ("echo-v2", "/old/x"), what="the route by path")
            assert ask("/", "-H", "end-user: jason") == ("echo-v2", "/")
            assert {ask("/")[0] for _ in range(4)} == {"echo-v1"}


def test_weights_are_kept(mesh: Mesh) -> None:
    routes = """
  - route:
    - {destination: {host: echo, subset: v1}, weight: 70}
    - {destination: {host: echo, subset: v2}, weight: 30}
"""
    with applied(mesh, virtual_service(routes)):
        eventually_sync(
            lambda: "outbound|80|v2|" in mesh.admin("client", "/config_dump").partition("RouteConfiguration")[2],
            what="the weights to arrive",
        )
        seen = load(mesh, "client", "echo", "/", 2000)
    assert sum(seen.values()) == 2000
    assert set(seen) == {"echo-v1", "echo-v2"}
    assert abs(seen["echo-v2"] / 2000 - 0.30) < 0.05, seen


def test_one_request_leaves_a_record_at_both_ends(mesh: Mesh) -> None:
    request_id = "0f0f0f0f-0000-4000-8000-000000000001"
    heard = json.loads(mesh.curl("client", "-H", f"x-request-id: {request_id}", "http://echo/journey").stdout)
    (sent,) = mesh.requests("client", request_id)
    (received,) = mesh.requests(heard["pod"], request_id)
    assert (sent["direction"], received["direction"]) == ("outbound", "inbound")
    assert sent["upstream_peer"] == ECHO
    assert received["peer"] == CLIENT
    assert sent["endpoint"] == received["original_destination"] == f"{mesh.pod(heard['pod'])['ip']}:8080"
    assert sent["endpoint_labels"]["pod"] == heard["pod"]
    assert sent["endpoint_labels"]["workload"] in {"echo-v1", "echo-v2"}
    assert (sent["status"], received["status"]) == (200, 200)


# --- Staying up -------------------------------------------------------------------------------------------------------


@contextmanager
def traffic(mesh: Mesh, pod: str, host: str) -> Iterator[Counter[str]]:
    """Requests without a pause for as long as the block runs; what became of them is known after it."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            seen.update(load(mesh, pod, host, "/", 100))

    def flows(above: int) -> bool:
        if asking.done():
            asking.result()
        return sum(seen.values()) > above

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            eventually_sync(lambda: flows(0), what="traffic to flow", timeout=20)
            before = sum(seen.values())
            yield seen
            eventually_sync(lambda: flows(before + 200), what="traffic to go on", timeout=20)
        finally:
            over.set()
        asking.result()


LATECOMER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: latecomer, namespace: default}
spec:
  selector: {matchLabels: {app: latecomer}}
  template:
    metadata: {labels: {app: latecomer}}
    spec:
      containers:
      - {name: app, image: latecomer, command: [sleep, infinity]}
"""


def test_without_a_control_plane_traffic_goes_on_and_new_pods_say_what_they_wait_for(mesh: Mesh) -> None:
    eventually_sync(lambda: mesh.status_of("client", "http://echo/") == "200", what="the mesh to have settled")
    pids = mesh.pids("pymesh-controlplane")
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    try:
        with traffic(mesh, "client", "echo") as seen:
            mesh.apply(LATECOMER)
            eventually_sync(
                lambda: "pilot.pymesh-system.svc:15012" in mesh.pod("latecomer")["message"],
                what="the new pod to say that it waits for pilot",
            )
        assert set(seen) == {"echo-v1", "echo-v2"}, seen
        for pid in pids:
            kill(pid, signal.SIGKILL)
        with traffic(mesh, "client", "echo") as seen:
            eventually_sync(
                lambda: mesh.pod("latecomer")["is_ready"], what="the new pod, once pilot is back", timeout=40
            )
        assert set(seen) == {"echo-v1", "echo-v2"}, seen
        assert mesh.status_of("latecomer", "http://echo/") == "200"
    finally:
        mesh.delete(LATECOMER)


def test_a_dying_app_costs_no_request_that_may_be_repeated(mesh: Mesh) -> None:
    victim = mesh.pod("echo-v1")["name"]
    with traffic(mesh, "client", "echo") as seen:
        apps = [pid for pid in mesh.pids(victim) if b"echo.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert apps
        for pid in apps:
            kill(pid, signal.SIGKILL)
        eventually_sync(
            lambda: mesh.pod(victim)["is_ready"] and mesh.pod(victim)["restarts"] > 0,
            what="its return",
            timeout=40,
        )
    assert set(seen) == {"echo-v1", "echo-v2"}, seen


def test_every_proxy_has_acknowledged_its_configuration(mesh: Mesh) -> None:
    def all_synced() -> bool:
        rows = json.loads(mesh.run("status", "-o", "json").stdout)["proxies"]
        text = json.dumps(rows)
        return len(rows) >= 5 and "NACK" not in text and "STALE" not in text

    eventually_sync(all_synced, what="every proxy to be in sync")
