"""The way out: an outside host is reached through the egress gateway, and in no other way.

The outside is a network of the test's own, linked to the mesh's; its hosts tell who called them.
"""

import json
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pymesh_controlplane.local.network import mesh_namespace
from tests.support.certificates import Authority, Issued
from tests.support.mesh import Mesh
from tests.support.outside import Outside, Site
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]

MANIFEST = Path(__file__).parent / "manifests" / "egress.yaml"
QUOTES, BANK, DB, OTHER = "203.0.113.10", "203.0.113.20", "203.0.113.30", "203.0.113.66"
CLIENT = "spiffe://cluster.local/ns/default/sa/client"
GATEWAY = "egressgateway.pymesh-system.svc.cluster.local"


class World(NamedTuple):
    """The mesh, the address of its egress gateway, and the sites outside."""

    mesh: Mesh
    gateway: str
    key_of_bank: str
    quotes: Site
    bank: Site
    db: Site
    others: tuple[Site, ...]

    def run(self, pod: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `command` as the app of a pod would: in its network, with its files, as its user."""
        app = next(pid for pid in self.mesh.pids(pod) if Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        inside = ["nsenter", f"--target={app}", "--net", "--mount", "--setuid=65532", "--setgid=65532"]
        return subprocess.run([*inside, *command], capture_output=True, text=True, timeout=30)

    def ask(self, *arguments: str) -> dict[str, Any]:
        """What a site says that the client asks."""
        done = self.run("client", "curl", "-sS", "-m", "10", "--fail", *arguments)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def status_of(self, url: str, *arguments: str) -> str:
        """The status of the client's GET; `000` where the connection was cut."""
        return self.run("client", "curl", "-s", "-m", "10", "-o/dev/null", "-w%{http_code}", *arguments, url).stdout

    def records(self, pod: str, **facts: object) -> list[dict[str, Any]]:
        """What the proxy of a pod has recorded, with these facts."""
        page = self.mesh.in_pod(pod, "curl", "-s", "127.0.0.1:15000/requests?limit=50")
        return [item for item in json.loads(page) if all(item.get(name) == value for name, value in facts.items())]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("egress")
    authority = Authority("the outside")
    bank_certificate = authority.issue(dns=("bank.example.com",))
    mesh = Mesh("egress", MANIFEST, without="policy,telemetry,ingress")
    with mesh, Outside(mesh_namespace("egress")) as outside:
        for address in (QUOTES, BANK, DB, OTHER):
            outside.host(int(address.rpartition(".")[2]))
        with (
            Site(outside, QUOTES, 80) as quotes,
            Site(outside, BANK, 443, context(bank_certificate, folder)) as bank,
            Site(outside, DB, 7000) as db,
            Site(outside, OTHER, 80) as other,
            Site(outside, OTHER, 443, context(bank_certificate, folder)) as other_tls,
            Site(outside, OTHER, 7000) as other_tcp,
        ):
            gateway = mesh.pod("egressgateway")["ip"]
            yield World(mesh, gateway, fingerprint(bank_certificate), quotes, bank, db, (other, other_tls, other_tcp))


def context(issued: Issued, folder: Path) -> ssl.SSLContext:
    (folder / "server.pem").write_bytes(issued.chain + issued.key)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "server.pem")
    return made


def fingerprint(issued: Issued) -> str:
    """The public key, as `curl --pinnedpubkey` takes it: whoever else has opened the connection is found out."""
    public = x509.load_pem_x509_certificate(issued.chain).public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256//{b64encode(sha256(spki).digest()).decode()}"


def test_a_request_leaves_through_the_gateway_over_mutual_tls(world: World) -> None:
    seen = world.ask("-H", "x-request-id: the-way-out", "http://quotes.example.com/today")
    assert seen == {"seen_from": world.gateway, "host": "quotes.example.com", "server_name": ""}
    assert set(world.quotes.callers) == {world.gateway}
    (out,) = world.records("client", request_id="the-way-out")
    assert (out["cluster"], out["status"]) == (f"outbound|443|quotes|{GATEWAY}", 200)
    (through,) = world.records("egressgateway", request_id="the-way-out")
    assert (through["cluster"], through["status"]) == ("outbound|80||quotes.example.com", 200)
    assert through["peer"] == CLIENT
    assert through["endpoint"] == f"{QUOTES}:80"


def test_tls_leaves_through_the_gateway_by_its_server_name_and_stays_closed(world: World) -> None:
    seen = world.ask("-k", "--pinnedpubkey", world.key_of_bank, "https://bank.example.com/account")
    assert seen == {"seen_from": world.gateway, "host": "bank.example.com", "server_name": "bank.example.com"}
    assert set(world.bank.callers) == {world.gateway}
    eventually_sync(
        lambda: world.records("client", cluster=f"outbound|443|bank|{GATEWAY}"), what="the sidecar's record"
    )
    eventually_sync(
        lambda: world.records("egressgateway", cluster="outbound|443||bank.example.com"), what="the gateway's record"
    )


def test_opaque_bytes_leave_through_the_gateway_by_the_address_of_their_host(world: World) -> None:
    """The site happens to speak HTTP; on a port that is declared TCP nobody looks."""
    seen = world.ask("-H", "x-request-id: unseen", "http://db.example.com:7000/")
    assert seen == {"seen_from": world.gateway, "host": "db.example.com:7000", "server_name": ""}
    counted = world.mesh.in_pod("egressgateway", "curl", "-s", "127.0.0.1:15090/stats/prometheus").splitlines()
    assert [line for line in counted if line.startswith("istio_tcp_conn") and 'service="db.example.com"' in line]


def test_the_gateway_serves_only_workloads_of_the_mesh_and_only_what_it_is_for(world: World) -> None:
    """A pod without a sidecar has no certificate to show; a server name that no server has is cut off."""
    ip = world.gateway
    for name in ("quotes.example.com", "other.example.com"):
        done = world.run("bare", "curl", "-sk", "-m", "10", "--connect-to", f"{name}:443:{ip}:8443", f"https://{name}/")
        assert done.returncode != 0
        assert done.stdout == ""


def test_what_the_registry_does_not_know_gets_nowhere(world: World) -> None:
    unknown = ("--resolve", f"other.example.com:80:{OTHER}", "--resolve", f"other.example.com:443:{OTHER}")
    assert world.status_of("http://other.example.com/", *unknown) == "502"
    assert world.status_of("https://other.example.com/", "-k", *unknown) == "000"
    assert world.status_of(f"http://{OTHER}:7000/") == "000"
    assert world.records("client", authority="other.example.com", route="block_all", status=502)
    black_hole = world.records("client", cluster="BlackHoleCluster")
    assert {record["flag"] for record in black_hole} == {"UH"}
    assert not any(site.callers for site in world.others)


def test_nobody_gets_out_beside_the_gateway(world: World) -> None:
    """Not a sidecar that knows the host, not a pod without one, not a process that the redirect leaves alone."""
    assert world.status_of("http://direct.example.com/") == "503"
    for pod in ("client", "bare"):
        for address in (f"{OTHER}:80", f"{QUOTES}:80", f"{BANK}:443"):
            as_proxy = ["nsenter", f"--net=/run/netns/{world.mesh.namespace_of(pod)}", "--setuid=1337"]
            done = subprocess.run(
                [*as_proxy, "curl", "-sv", "-m", "5", f"http://{address}/"], capture_output=True, text=True
            )
            assert done.returncode != 0
            assert "No route to host" in done.stderr
    assert not any(site.callers for site in world.others)
    assert set(world.quotes.callers) <= {world.gateway}


def test_names_outside_have_addresses_that_stand_for_them(world: World) -> None:
    answered = {
        name: world.run("client", "getent", "ahostsv4", f"{name}.example.com").stdout.split()[0]
        for name in ("quotes", "bank", "direct")
    }
    assert len(set(answered.values())) == 3
    assert all(address.startswith("240.240.") for address in answered.values())
    over_tcp = world.run("client", "env", "RES_OPTIONS=use-vc", "getent", "ahostsv4", "quotes.example.com")
    assert over_tcp.stdout.split()[0] == answered["quotes"], "the mesh's DNS is known to the registry too"
    assert world.status_of(f"http://{answered['direct']}:7000/") == "000", (
        "opaque bytes have a route, and the network no way out for a sidecar"
    )
    eventually_sync(
        lambda: world.records("client", cluster="outbound|7000||direct.example.com"), what="a connection by its address"
    )


def test_the_policy_changes_while_the_mesh_runs_and_a_wrong_one_changes_nothing(world: World) -> None:
    def policy(mode: str) -> str:
        documents = MANIFEST.read_text().split("\n---\n")
        (text,) = (document for document in documents if "kind: ConfigMap" in document)
        return text.replace("REGISTRY_ONLY", mode)

    def status() -> str:
        return world.status_of("http://other.example.com/", "--resolve", f"other.example.com:80:{OTHER}")

    world.mesh.apply(policy("ALLOW_ANY"))
    # The sidecar now tries; it is the network that does not let it out.
    eventually_sync(lambda: status() == "503", what="ALLOW_ANY in force")
    world.mesh.apply(policy("REGISTRY_ONLY"))
    eventually_sync(lambda: status() == "502", what="REGISTRY_ONLY in force")
    refused = world.mesh.run("apply", "-f", "-", stdin=policy("REGISTRYONLY"), check=False)
    assert refused.returncode != 0
    assert "standard input:7:" in refused.stdout + refused.stderr
    assert "did you mean 'REGISTRY_ONLY'" in refused.stdout + refused.stderr
    assert status() == "502"
