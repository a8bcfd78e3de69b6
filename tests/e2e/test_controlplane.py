"""pymesh-controlplane as a process: certificates, configuration, and everything that people and networks do wrong."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from pymesh.identity import Identity
from pymesh_controlplane.citadel.authority import self_signed
from tests.controlplane.citadel.support import REVIEWS, Tokens, csr_for, key_pem, new_key
from tests.e2e.controlplane import (
    SERVER_NAME,
    Place,
    PolicyOnly,
    Proxy,
    Running,
    answers_http,
    failure,
    listening_ports,
    names_in,
    running,
    still_serves,
)
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: {ip}
  selector: {{app: {name}}}
  ports: [{{name: http, port: 9080}}]
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One control plane for the tests that leave it as it was."""
    place = Place(tmp_path_factory.mktemp("mesh"))
    (place.config / "reviews.yaml").write_text(SERVICE.format(name="reviews", ip="10.96.0.20"))
    with running(place) as process:
        yield process


def refused(plane: Running, token: str | None, **more: object) -> tuple[grpc.StatusCode, str]:
    """How CreateCertificate refuses."""
    with pytest.raises(grpc.RpcError) as caught:
        plane.sign(token, **more)  # type: ignore[arg-type]  # passed through
    return caught.value.code(), caught.value.details()


def test_a_csr_becomes_a_certificate_that_openssl_verifies(plane: Running, tmp_path: Path) -> None:
    """Against the root that pods mount, as client and as server."""
    chain = plane.sign(plane.place.tokens.token())
    (tmp_path / "leaf.pem").write_text(chain[0])
    for purpose in ("sslclient", "sslserver"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", plane.place.root_cert]
        done = subprocess.run([*command, tmp_path / "leaf.pem"], capture_output=True, text=True)
        assert done.stdout.endswith(": OK\n"), done.stderr
    names = x509.load_pem_x509_certificate(chain[0].encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(REVIEWS)]
    assert chain[-1] == plane.place.root_cert.read_text()


def test_a_certificate_is_renewed_with_a_token_and_never_by_itself(plane: Running) -> None:
    """It would live for ever, also after its account is gone. A shorter life is granted, a longer one up to 90 days."""
    key, token = new_key(), plane.place.tokens.token()
    first = plane.sign(token, csr=csr_for(key))
    code, details = refused(plane, None, channel=plane.channel(key, first))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert details.startswith(f"the certificate of {REVIEWS} does not renew itself: send a token")
    assert f"{details}\n" in plane.log.read_text()
    for asked, granted in ((600, 600), (0, 86400), (2**40, 90 * 86400)):
        second = plane.sign(token, channel=plane.channel(key, first), lifetime=asked)
        leaf = x509.load_pem_x509_certificate(second[0].encode())
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == granted + 120


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"aud": ["kubernetes"]}, "Audience"),
        ({"exp": int(time.time()) - 600}, "expired"),
        ({"iss": "https://evil.example"}, "issuer"),
    ],
    ids=["audience", "expired", "issuer"],
)
def test_a_wrong_token_is_refused(plane: Running, changes: dict[str, object], sentence: str) -> None:
    """And audited."""
    code, details = refused(plane, plane.place.tokens.token(**changes))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert sentence in details
    assert "pymesh.citadel.audit: refused: caller=127.0.0.1:" in plane.log.read_text()


def test_a_token_of_another_key_and_none_at_all_are_refused(plane: Running, tmp_path: Path) -> None:
    """A stranger that knows the form is a stranger still."""
    assert refused(plane, Tokens(tmp_path).token())[0] == grpc.StatusCode.UNAUTHENTICATED
    code, details = refused(plane, None)
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert details.startswith("send a token")


def test_nobody_gets_somebody_elses_certificate(plane: Running) -> None:
    """The CSR asks for another account: refused, with both names, and audited."""
    csr = csr_for(new_key(), x509.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/admin"))
    code, details = refused(plane, plane.place.tokens.token(), csr=csr)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "asks for spiffe://cluster.local/ns/default/sa/admin" in details
    assert f"refused: identity={REVIEWS} caller=127.0.0.1:" in plane.log.read_text()


def test_every_signature_is_audited_and_no_key_or_token_is_logged(plane: Running) -> None:
    """Identity, serial, end, caller, proof."""
    token = plane.place.tokens.token(Identity("cluster.local", "shop", "auditor"))
    chain = plane.sign(token)
    serial = x509.load_pem_x509_certificate(chain[0].encode()).serial_number
    log = plane.log.read_text()
    (line,) = [line for line in log.splitlines() if f"serial={serial:x} " in line]
    assert "signed: identity=spiffe://cluster.local/ns/shop/sa/auditor " in line
    assert "proof=token" in line
    assert token not in log
    assert "PRIVATE KEY" not in log


def test_a_certificate_of_another_ca_fails_the_handshake(plane: Running, tmp_path: Path) -> None:
    """Even one that says it is of this mesh."""
    place = Place(tmp_path)
    with running(place, "--components", "citadel") as other:
        key = new_key()
        chain = other.sign(place.tokens.token(), csr=csr_for(key))
    before = plane.metric('controlplane_tls_refused{reason="handshake"}')
    code, _ = refused(plane, None, channel=plane.channel(key, chain))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert plane.metric('controlplane_tls_refused{reason="handshake"}') > before


def test_a_change_on_disk_reaches_a_connected_proxy(plane: Running) -> None:
    """A service that is added, then taken away; and the status says that the proxy took it."""
    with plane.channel() as channel:
        proxy = Proxy(channel, plane.place.tokens.token())
        try:
            first = proxy.hear()
            assert "outbound|9080||reviews.default.svc.cluster.local" in names_in(first)
            ratings = plane.place.config / "ratings.yaml"
            ratings.write_text(SERVICE.format(name="ratings", ip="10.96.0.21"))
            second = proxy.hear()
            assert "outbound|9080||ratings.default.svc.cluster.local" in names_in(second)
            assert "outbound|9080||reviews.default.svc.cluster.local" not in names_in(second)
            assert second.system_version_info != first.system_version_info

            def taken() -> bool:
                (seen,) = plane.syncz()
                assert seen["identity"] == str(REVIEWS)
                assert seen["proxy"] == "reviews-v1-0.default"
                cds = seen["types"]["cds"]  # type: ignore[index]  # JSON
                return bool(cds["status"] == "SYNCED" and cds["acked_version"] == second.system_version_info)

            eventually_sync(taken, what="the acknowledgement")
            ratings.unlink()
            assert "outbound|9080||ratings.default.svc.cluster.local" in proxy.hear().removed_resources
        finally:
            proxy.close()
    eventually_sync(lambda: plane.syncz() == [], what="the end of the stream to be noticed")


def test_a_broken_file_changes_nothing_and_is_told(plane: Running) -> None:
    """In the log and in /debug/configz; what is in force stays."""
    broken = plane.place.config / "broken.yaml"
    broken.write_text("apiVersion: v1\nkind: Service\nmetadata: [\n")
    try:
        problems = eventually_sync(lambda: json.loads(plane.get("/debug/configz"))["problems"], what="the problem")
        assert any(str(broken) in problem["position"] for problem in problems)
        assert str(broken) in plane.log.read_text()
        assert "reviews.default.svc.cluster.local" in plane.get("/debug/registryz")
    finally:
        broken.unlink()
    eventually_sync(lambda: not json.loads(plane.get("/debug/configz"))["problems"], what="the problem to go")


@pytest.mark.parametrize(
    ("token", "account", "code"),
    [
        ("good", "ratings", grpc.StatusCode.PERMISSION_DENIED),
        ("none", "reviews", grpc.StatusCode.UNAUTHENTICATED),
        ("bad", "reviews", grpc.StatusCode.UNAUTHENTICATED),
    ],
)
def test_a_stream_on_the_tls_port_needs_proof(plane: Running, token: str, account: str, code: grpc.StatusCode) -> None:
    """And the node must be who was proved."""
    sent = {"good": plane.place.tokens.token(), "none": None, "bad": "a.b.c"}[token]
    with plane.channel() as channel:
        proxy = Proxy(channel, sent, account)
        try:
            with pytest.raises(grpc.RpcError) as caught:
                proxy.hear()
        finally:
            proxy.close()
    assert caught.value.code() == code


def test_the_plain_port_serves_configuration_and_no_certificates(plane: Running) -> None:
    """Certificates are for callers that can be known."""
    with grpc.insecure_channel(f"127.0.0.1:{plane.ports['xds']}") as channel:
        proxy = Proxy(channel, None)
        assert proxy.hear().resources
        proxy.close()
    channel = grpc.insecure_channel(f"127.0.0.1:{plane.ports['xds']}")
    assert refused(plane, plane.place.tokens.token(), channel=channel)[0] == grpc.StatusCode.UNIMPLEMENTED


def test_the_inner_port_is_not_a_way_around_tls(plane: Running) -> None:
    """Whoever finds the loopback ports behind the TLS ports is refused, with whatever token."""
    inner = listening_ports(plane.process.pid) - set(plane.ports.values())
    assert len(inner) == 2, "gRPC behind 15012, and HTTP behind 9091"
    (pages,) = {port for port in inner if answers_http(port)}
    (calls,) = inner - {pages}
    code, details = refused(plane, plane.place.tokens.token(), channel=grpc.insecure_channel(f"127.0.0.1:{calls}"))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "from the TLS port only" in details
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{pages}/check/", timeout=5)
    assert caught.value.code == 503
    assert "from the TLS port only" in caught.value.read().decode()


def test_the_mesh_port_shows_who_the_process_is_and_takes_only_workloads(plane: Running, tmp_path: Path) -> None:
    """Of an all-in-one control plane, whose citadel needs not be asked; without a certificate nobody gets in."""
    eventually_sync(lambda: plane.get("/ready") == "ready\n")
    key = new_key()
    chain = plane.sign(plane.place.tokens.token(), csr=csr_for(key))
    (tmp_path / "pair.pem").write_bytes(key_pem(key) + "".join(chain).encode())
    context = ssl.create_default_context(cafile=str(plane.place.root_cert))
    context.check_hostname = False  # who it is stands in the URI
    for certified in (False, True):
        if certified:
            context.load_cert_chain(tmp_path / "pair.pem")
        with (
            socket.create_connection(("127.0.0.1", plane.ports["mesh"]), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname="any") as secured,
        ):
            shown = secured.getpeercert()
            if not certified:
                with contextlib.suppress(ssl.SSLError):  # TLS 1.3: the refusal comes after the handshake
                    assert secured.recv(1) == b""
            assert shown is not None
            uri = "spiffe://cluster.local/ns/pymesh-system/sa/pymesh-controlplane"
            assert ("URI", uri) in shown["subjectAltName"]


def test_a_policy_service_without_citadel_is_not_ready_and_says_why(tmp_path: Path) -> None:
    """Its port stays closed meanwhile."""
    place = PolicyOnly(tmp_path)
    (tmp_path / "token").write_text("token")
    (tmp_path / "root.pem").write_text(self_signed("cluster.local", now=datetime.now(UTC)).root_pem)
    files = ["--token", str(tmp_path / "token"), "--root-cert", str(tmp_path / "root.pem")]
    with running(place, "--citadel", "127.0.0.1:1", *files) as process:

        def told() -> bool:
            with pytest.raises(urllib.error.HTTPError) as caught:
                process.get("/ready")
            reason = caught.value.read().decode()
            assert caught.value.code == 503
            return reason.startswith("waiting for a certificate from 127.0.0.1:1: ") and "onnect" in reason

        eventually_sync(told, what="the reason")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", process.ports["mesh"]), timeout=5)
        assert json.loads(process.get("/policy"))["rules"] == []


@pytest.mark.parametrize("port", ["xds", "tls", "http"])
@pytest.mark.parametrize(
    "garbage",
    [
        os.urandom(4096),
        b"\0" * 4096,
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
        b"\x16\x03\x01\x40\x00" + b"\x01" * 16384,
    ],
    ids=["random", "zeros", "http/1.1", "bad frames", "bad hello"],
)
def test_garbage_on_a_port_leaves_it_serving(plane: Running, port: str, garbage: bytes) -> None:
    """Whatever comes: the next caller is served."""
    with (
        socket.create_connection(("127.0.0.1", plane.ports[port]), timeout=5) as connection,
        contextlib.suppress(OSError),  # cut off at once is as good
    ):
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    still_serves(plane)


def test_clients_that_hardly_say_anything_hold_up_nobody(plane: Running) -> None:
    """On each port some that dribble: a preface, a hello and a request, a byte now and then, and others are served."""
    context = ssl.create_default_context(cadata=plane.place.root_cert.read_text())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = context.wrap_bio(incoming, outgoing, server_hostname=SERVER_NAME)
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    said = {"xds": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "tls": outgoing.read(), "http": b"GET /ready HTTP/1.1\r\n"}
    slow = {
        socket.create_connection(("127.0.0.1", plane.ports[port]), timeout=5): iter(data)
        for port, data in said.items()
        for _ in range(20)
    }
    try:
        for _ in range(3):
            for connection, data in slow.items():
                connection.sendall(bytes([next(data)]))
            still_serves(plane)
    finally:
        for connection in slow:
            connection.close()


def test_after_a_sigkill_the_root_is_the_same(tmp_path: Path) -> None:
    """And certificates of before are good for the control plane of after."""
    place = Place(tmp_path)
    key = new_key()
    with running(place, "--components", "citadel") as first:
        chain = first.sign(place.tokens.token(), csr=csr_for(key))
        root = place.root_cert.read_bytes()
        first.process.kill()
        assert first.process.wait() == -signal.SIGKILL
    place.root_cert.unlink()
    with running(place, "--components", "citadel") as second:
        assert place.root_cert.read_bytes() == root
        assert second.sign(place.tokens.token(), channel=second.channel(key, chain))[-1] == chain[-1]


@pytest.mark.parametrize("port", ["xds", "tls", "http"])
def test_a_port_in_use_is_one_sentence(plane: Running, tmp_path: Path, port: str) -> None:
    """Which port, and what to do."""
    taken = plane.ports[port]
    assert failure(Place(tmp_path), **{port: taken}) == (
        f"cannot listen on 127.0.0.1 port {taken}: Address already in use; is another control plane running? "
        f"--{port}-port takes another port"
    )


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    """A missing folder, a missing key file, a corrupt CA, an address that is not ours."""
    place = Place(tmp_path)
    missing = tmp_path / "missing"
    assert failure(place, "--config-dir", str(missing)) == f"{missing}: cannot be read: No such file or directory"
    assert failure(place, "--jwks", str(missing)) == f"{missing}: cannot be read: No such file or directory"
    assert failure(place, "--listen", "192.0.2.1") == (
        "cannot listen on 192.0.2.1 port 0: Cannot assign requested address"
    )
    (place.citadel / "self-signed-ca.pem").write_text("garbage")
    assert "restore it from a backup" in failure(place)
    assert (place.citadel / "self-signed-ca.pem").read_text() == "garbage"


def test_ending_with_proxies_connected_is_orderly(tmp_path: Path) -> None:
    """Their streams end with a status they retry on; the process ends with 0, and without a traceback."""
    place = Place(tmp_path)
    (place.config / "reviews.yaml").write_text(SERVICE.format(name="reviews", ip="10.96.0.20"))
    with (
        running(place) as plane,
        plane.channel() as tls,
        grpc.insecure_channel(f"127.0.0.1:{plane.ports['xds']}") as plain,
    ):
        proxies = [Proxy(tls, place.tokens.token()), Proxy(plain, None)]
        try:
            for proxy in proxies:
                assert proxy.hear().resources
            plane.process.send_signal(signal.SIGTERM)
            for proxy in proxies:
                with pytest.raises(grpc.RpcError) as caught:
                    proxy.hear()
                assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
            assert plane.process.wait(10) == 0
        finally:
            for proxy in proxies:
                proxy.close()
    assert "Traceback" not in plane.log.read_text(), plane.log.read_text()
