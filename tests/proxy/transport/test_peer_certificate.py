"""Who a certificate says its peer is: read once, and never believed where nobody verified it."""

import contextlib
import ssl
from hashlib import sha256
from pathlib import Path

import pytest

from pymesh_proxy.transport import peer_certificate as module
from pymesh_proxy.transport.peer_certificate import PeerCertificate, peer_certificate
from tests.support.certificates import Authority

WEB = "spiffe://cluster.local/ns/default/sa/web"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def seen(authority: Authority, folder: Path, *, verified: bool = True, **names: object) -> ssl.SSLObject:
    """The client's end of a connection to a server with such a certificate."""
    issued = authority.issue(**names)  # type: ignore[arg-type]  # passed on as they are
    file = folder / "server.pem"
    file.write_bytes(issued.chain + b"\n" + issued.key)
    return connected(authority, file, verified=verified)[0]


def connected(authority: Authority, file: Path, *, verified: bool) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """The client's and the server's end."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(file)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
    client.load_verify_locations(cadata=authority.root.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends


def test_names_subject_and_hash(authority: Authority, tmp_path: Path) -> None:
    dns = ("a.example", "b.example")
    connection = seen(authority, tmp_path, uri=WEB, dns=dns, ips=("10.0.0.1",), common_name="web")
    der = connection.getpeercert(binary_form=True)
    assert der is not None
    found = peer_certificate(connection)
    assert (found.identity, found.dns, found.subject) == (WEB, dns, "CN=web")
    assert set(found.names) == {WEB, *dns, "10.0.0.1"}
    assert found.hash == sha256(der).hexdigest()


def test_the_same_certificate_is_read_once_and_another_anew(authority: Authority, tmp_path: Path) -> None:
    first = peer_certificate(seen(authority, tmp_path, uri=WEB))
    assert peer_certificate(connected(authority, tmp_path / "server.pem", verified=True)[0]) is first
    again = peer_certificate(seen(authority, tmp_path, uri=WEB))  # another one with the same name
    assert (again.identity, again.hash == first.hash) == (WEB, False)


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_what_was_read_of_a_verified_one_is_not_believed_of_one_that_nobody_verified(
    authority: Authority, tmp_path: Path, order: tuple[bool, bool]
) -> None:
    issued = authority.issue(uri=WEB, dns=("a.example",))
    file = tmp_path / "server.pem"
    file.write_bytes(issued.chain + b"\n" + issued.key)
    found = {verified: peer_certificate(connected(authority, file, verified=verified)[0]) for verified in order}
    assert found[True].identity == WEB
    assert found[False] == PeerCertificate(hash=found[True].hash)


def test_no_certificate_says_nothing(authority: Authority, tmp_path: Path) -> None:
    seen(authority, tmp_path, uri=WEB)
    _, server = connected(authority, tmp_path / "server.pem", verified=True)
    assert peer_certificate(server) == PeerCertificate()


def test_what_is_remembered_is_bounded(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    monkeypatch.setattr(module, "_remembered", {})
    for _ in range(4):
        newest = peer_certificate(seen(authority, tmp_path, uri=WEB))
    assert len(module._remembered) == 2
    assert newest in module._remembered.values()
