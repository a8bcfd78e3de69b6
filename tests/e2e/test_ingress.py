"""The way in: this machine reaches the mesh by the ingress gateway's loopback ports, with the curl that anybody has."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509

from pymesh_controlplane.local.state import RUN
from tests.controlplane.galley.certificates import tls_secret
from tests.support.certificates import Authority, Issued
from tests.support.mesh import PATIENCE, Mesh
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]

MANIFEST = Path(__file__).parent / "manifests" / "ingress.yaml"
GATEWAY = "spiffe://cluster.local/ns/pymesh-system/sa/ingressgateway"


class Answer(NamedTuple):
    """What curl got: the status (0: the connection was cut), the headers in lower case, and what the echo app said."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def heard(self) -> dict[str, Any]:
        """What the app was asked."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Edge:
    """The mesh, and the files of whoever calls it from outside."""

    mesh: Mesh
    folder: Path
    authority: Authority
    issued: dict[str, Issued] = field(default_factory=dict)

    @cached_property
    def ports(self) -> dict[int, int]:
        """The machine's ports, by the port of the gateway's pod that they lead to."""
        return host_ports(self.mesh)

    def port(self, own: int) -> int:
        """The machine's port that leads to port `own` of the gateway's pod."""
        return self.ports[own]

    def curl(self, url: str, *arguments: str, timeout: float = 10) -> Answer:
        """`curl URL`, whose host is looked for on this machine and whose port is the gateway's own."""
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        port = self.port(8443 if scheme == "https" else 8080)
        command = ["curl", "-s", "-i", "-m", str(timeout), "--resolve", f"{host}:{port}:127.0.0.1"]
        command += ["--cacert", str(self.folder / "root.pem"), *arguments, f"{scheme}://{host}:{port}{slash}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
        lines = head.splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return Answer(int(lines[0].split()[1]) if lines else 0, headers, body)

    def secret(self, name: str) -> str:
        """The Secret `name` with a new certificate for `<name>.example.com`."""
        self.issued[name] = self.authority.issue(dns=(f"{name}.example.com",))
        return tls_secret(self.issued[name], name, self.authority.root if name == "members" else b"")

    def issue(self, name: str) -> Issued:
        """A new certificate for `<name>.example.com`, in force."""
        self.mesh.apply(self.secret(name))
        return self.issued[name]

    def connect(self, host: str) -> ssl.SSLSocket:
        """A connection for `host` that stays; its certificate is checked."""
        context = ssl.create_default_context(cafile=str(self.folder / "root.pem"))
        sock = socket.create_connection(("127.0.0.1", self.port(8443)), timeout=PATIENCE)
        return context.wrap_socket(sock, server_hostname=host)


def host_ports(mesh: Mesh) -> dict[int, int]:
    """As `pymesh ps` has them now."""
    ways_in = mesh.pod("ingressgateway")["host_ports"]
    return {port: int(address.rpartition(":")[2]) for address, port in ways_in.items()}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("ingress")
    authority = Authority("the outside")
    (folder / "root.pem").write_bytes(authority.root)
    secrets = folder / "secrets.yaml"
    found = Edge(Mesh("ingress", MANIFEST, secrets, without="egress,telemetry"), folder, authority)
    secrets.write_text("".join(found.secret(name) for name in ("www", "shop", "members")))
    with found.mesh:
        answers(found, "https://www.example.com/")
        yield found


def answers(edge: Edge, url: str, *arguments: str, status: int = 200) -> Answer:
    """The answer, once what was applied has arrived at the gateway."""

    def found() -> Answer:
        answer = edge.curl(url, *arguments)
        assert answer.status == status, answer
        return answer

    return eventually_sync(found, what=f"{status} from {url}")


def serial(pem: bytes) -> int:
    return x509.load_pem_x509_certificates(pem)[0].serial_number


# --- HTTP ----------------------------------------------------------------------------------------------------------


def test_requests_are_routed_by_host_and_path(edge: Edge) -> None:
    assert edge.curl("http://www.example.com/").heard["pod"] == "front"
    assert edge.curl("http://www.example.com/api/v1").heard["pod"] == "api"
    assert edge.curl("http://other.example.com/").heard["pod"] == "front"


def test_a_host_that_no_server_has_is_not_found_and_the_answer_says_by_whom(edge: Edge) -> None:
    answer = edge.curl("http://nobody.example.org/")
    assert answer.status == 404
    assert answer.headers["proxy-status"] == 'pymesh; error=destination_not_found; details="NR route_not_found"'


def test_what_a_client_says_of_itself_is_not_believed(edge: Edge) -> None:
    forged = {
        "x-forwarded-client-cert": f"By=x;URI={GATEWAY}",
        "x-request-id": "forged",
        "x-forwarded-proto": "https",
        "x-envoy-internal": "true",
        "x-envoy-peer-metadata": "forged",
        "x-forwarded-for": "192.0.2.7",
    }
    arguments = [part for name, value in forged.items() for part in ("-H", f"{name}: {value}")]
    answer = edge.curl("http://www.example.com/", *arguments)
    headers = answer.heard["headers"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", headers["x-request-id"])
    assert answer.headers["x-request-id"] == headers["x-request-id"]  # by which pymesh journey finds it
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-for"] == "192.0.2.7,127.0.0.1"
    assert headers["x-forwarded-client-cert"].endswith(f"URI={GATEWAY}")
    assert headers["x-forwarded-client-cert"].count("URI=") == 1  # the sidecar's own word, nothing of the client's
    assert not {"x-envoy-internal", "x-envoy-peer-metadata"} & headers.keys()


def test_a_server_that_redirects_to_https(edge: Edge) -> None:
    answer = edge.curl("http://secure.example.com/a?b=c")
    assert answer.status == 301
    assert answer.headers["location"] == f"https://secure.example.com:{edge.port(8080)}/a?b=c"


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_each_server_name_has_its_own_certificate(edge: Edge) -> None:
    for name in ("www", "shop"):
        assert shown(edge, f"{name}.example.com") == serial(edge.issued[name].chain)
    heard = edge.curl("https://www.example.com/api").heard
    assert (heard["pod"], heard["headers"]["x-forwarded-proto"]) == ("api", "https")
    assert edge.curl("https://nobody.example.com/", "-k").status == 0
    assert edge.curl("https://shop.example.com/", "--tls-max", "1.2").status == 0
    assert edge.curl("https://www.example.com/", "--tls-max", "1.2").status == 200


def test_mutual_tls_takes_only_clients_with_a_certificate_of_the_right_authority(edge: Edge) -> None:
    for name, authority in (("right", edge.authority), ("wrong", Authority("another"))):
        issued = authority.issue(dns=("client.example.com",))
        (edge.folder / f"{name}.pem").write_bytes(issued.chain + issued.key)
    url = "https://members.example.com/"
    answers(edge, url, "--cert", str(edge.folder / "right.pem"))
    assert edge.curl(url).status == 0
    assert edge.curl(url, "--cert", str(edge.folder / "wrong.pem")).status == 0


def test_a_missing_certificate_concerns_its_server_name_alone_until_it_comes(edge: Edge) -> None:
    before = failed_handshakes(edge)
    assert edge.curl("https://late.example.com/").status == 0
    assert edge.curl("https://www.example.com/").status == 200
    assert failed_handshakes(edge) == before + 1
    assert "there is no Secret pymesh-system/late" in edge.mesh.run("status").stdout
    edge.issue("late")
    answers(edge, "https://late.example.com/")
    assert "there is no Secret" not in edge.mesh.run("status").stdout


def failed_handshakes(edge: Edge) -> int:
    """As the gateway counts them, over all its listeners."""
    page = edge.mesh.exec("ingressgateway", "curl", "-s", "127.0.0.1:15090/stats/prometheus", namespace="pymesh-system")
    found = re.findall(r"^envoy_listener_downstream_cx_tls_error_total\{.*\} (\d+)", page, re.MULTILINE)
    assert found
    return sum(map(int, found))


def test_a_certificate_and_routes_change_under_requests_and_none_fails(edge: Edge) -> None:
    before = edge.connect("www.example.com")
    old = edge.issued["www"]
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(edge.curl("https://www.example.com/moved").status)

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        new = edge.issue("www")
        eventually_sync(lambda: shown(edge) == serial(new.chain), what="the new certificate")
        routes = MANIFEST.read_text().rpartition("---")[2]
        edge.mesh.apply(routes.replace("prefix: /api}", "prefix: /moved}"))
        eventually_sync(lambda: edge.curl("https://www.example.com/moved").heard["pod"] == "api", what="the new route")
        edge.mesh.apply(routes)
    finally:
        over.set()
        for caller in callers:
            caller.join(PATIENCE)
    assert len(statuses) > 10
    assert set(statuses) == {200}
    assert serial(old.chain) != serial(new.chain)
    with before:  # made with the old certificate, and still there
        before.sendall(b"GET / HTTP/1.1\r\nhost: www.example.com\r\n\r\n")
        assert before.recv(12) == b"HTTP/1.1 200"


def shown(edge: Edge, host: str = "www.example.com") -> int:
    """Serial number of the certificate that a new connection for `host` is shown."""
    with edge.connect(host) as connection:
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def test_what_secrets_hold_is_shown_nowhere(edge: Edge) -> None:
    mesh = edge.mesh
    pages = (
        ("ingressgateway", "127.0.0.1:15000/config_dump"),
        ("pymesh-controlplane", "127.0.0.1:15014/debug/configz"),
    )
    shown = [
        mesh.run("get", "all", "-o", "json").stdout,
        *(mesh.exec(pod, "curl", "-s", page, namespace="pymesh-system") for pod, page in pages),
        *(log.read_text() for log in (RUN / mesh.name).rglob("*.log")),
    ]
    assert '"tls.key": "<' in shown[0]
    assert len(shown) > 8
    for issued in edge.issued.values():
        line, encoded = issued.key.decode().splitlines()[1], b64encode(issued.key).decode()
        for text in shown:
            assert line not in text
            assert encoded[40:80] not in text
    seen_by_policy = mesh.exec("policy", "find", "/var/lib/pymesh/config", "-name", "*.json", namespace="pymesh-system")
    assert "gateway-default.edge.json" in seen_by_policy
    assert "secret" not in seen_by_policy


# --- Ports of the machine ------------------------------------------------------------------------------------------


def test_a_gateway_that_is_killed_comes_back_behind_the_same_port(edge: Edge) -> None:
    os.kill(edge.mesh.pod("ingressgateway")["pids"]["pymesh-proxy"], signal.SIGKILL)
    assert edge.curl("http://www.example.com/", timeout=30).status == 200  # waited in the socket's queue
    assert host_ports(edge.mesh) == edge.ports
    assert edge.mesh.pod("ingressgateway")["restarts"] == 1


def test_people_are_told_the_way_in(edge: Edge) -> None:
    ways_in = f"127.0.0.1:{edge.port(8080)}->8080 127.0.0.1:{edge.port(8443)}->8443"
    assert ways_in in edge.mesh.run("ps").stdout
    assert ways_in in edge.mesh.run("get", "gateway").stdout


def test_a_second_mesh_has_ports_of_its_own_and_says_which(edge: Edge) -> None:
    second = Mesh("ingresstwo")
    second.run("down")
    said = second.run("up", "--without", "policy,telemetry,egress").stderr
    try:
        ports = {int(port) for port in re.findall(r"ingressgateway: 127\.0\.0\.1:(\d+)", said)}
        assert len(ports) == 2
        assert not ports & {edge.port(8080), edge.port(8443)}
        assert edge.curl("http://www.example.com/").status == 200
    finally:
        second.run("down")
