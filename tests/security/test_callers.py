"""Who is not who he says: certificates that prove nothing, or somebody else."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.security.guarded import ACCOUNTS, FRIEND, STRANGER, Guarded, guarded
from tests.support.certificates import Authority, Issued
from tests.support.peers import client

ONLY_FRIENDS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: friends, namespace: default}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]}
"""
GET = b"GET / HTTP/1.1\r\nhost: app\r\n\r\n"


def self_signed(uri: str) -> Issued:
    """A certificate that only its own key vouches for."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    nobody = x509.Name([])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    made = (
        x509.CertificateBuilder().subject_name(nobody).issuer_name(nobody).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        .add_extension(names, critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issued(made.public_bytes(serialization.Encoding.PEM), private)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(ONLY_FRIENDS, tmp_path) as found:
        yield found


async def refused(app: Guarded, issued: Issued) -> bool:
    """Whether a connection with that certificate is cut before it has an answer."""
    try:
        async with app.caller(issued=issued) as peer:
            peer.send(GET)
            return await peer.ended()
    except (ssl.SSLError, ConnectionError):
        return True


@pytest.mark.parametrize(("begins", "lasts"), [(-7200.0, 3600.0), (3600.0, 3600.0)], ids=["expired", "not valid yet"])
async def test_a_certificate_has_its_time(app: Guarded, begins: float, lasts: float) -> None:
    assert await refused(app, app.authority.issue(uri=FRIEND, begins=begins, lasts=lasts))
    assert not app.app.seen


async def test_a_session_is_not_resumed_longer_than_the_certificate_lasts(
    app: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever has stolen one goes on with tickets, which are new with each connection."""
    shown = app.authority.issue(uri=FRIEND, lasts=3600.0)
    (tmp_path / "pair.pem").write_bytes(shown.chain + shown.key)
    context = ssl.create_default_context(cadata=app.authority.root.decode())
    context.load_cert_chain(tmp_path / "pair.pem")

    def answered(session: ssl.SSLSession | None) -> tuple[bytes, bool, ssl.SSLSession | None]:
        plain = socket.create_connection(app.proxy.address)
        with plain, context.wrap_socket(plain, server_hostname="localhost", session=session) as client:
            client.sendall(GET)
            with suppress(ConnectionError):
                return client.recv(12), bool(client.session_reused), client.session
            return b"", bool(client.session_reused), None

    _, _, session = await asyncio.to_thread(answered, None)
    assert (await asyncio.to_thread(answered, session))[:2] == (b"HTTP/1.1 200", True)
    later = time.time() + 3600.0
    monkeypatch.setattr(time, "time", lambda: later)
    assert (await asyncio.to_thread(answered, session))[:2] == (b"", True)
    assert len(app.app.seen) == 2


async def test_a_certificate_of_another_authority_proves_nothing(app: Guarded) -> None:
    assert await refused(app, Authority("test root").issue(uri=FRIEND))
    assert await refused(app, Authority("between", parent=Authority("another")).issue(uri=FRIEND))
    assert not app.app.seen


async def test_a_certificate_that_signs_itself_proves_nothing(app: Guarded) -> None:
    assert await refused(app, self_signed(FRIEND))
    assert not app.app.seen


@pytest.mark.parametrize(
    "identity",
    [
        STRANGER,
        "spiffe://evil.test/ns/default/sa/friend",
        "spiffe://cluster.local.evil.test/ns/default/sa/friend",
        "spiffe://cluster.local/ns/evil/sa/friend",
        f"{FRIEND}x",
        f"{ACCOUNTS}x/../friend",
        FRIEND.upper(),
        "https://cluster.local/ns/default/sa/friend",
    ],
)
async def test_another_name_of_the_same_authority_is_another_caller(app: Guarded, identity: str) -> None:
    async with app.caller(identity) as peer:
        peer.send(GET)
        assert (await peer.head()).startswith(b"HTTP/1.1 403 ")
    assert not app.app.seen


async def test_a_name_that_is_no_uri_is_not_taken_for_one(app: Guarded) -> None:
    for issued in (
        app.authority.issue(uri=STRANGER, common_name=FRIEND),
        app.authority.issue(uri=STRANGER, organizations=(FRIEND,)),
        app.authority.issue(uri=STRANGER, dns=("friend",)),
    ):
        async with app.caller(issued=issued) as peer:
            peer.send(GET)
            assert (await peer.head()).startswith(b"HTTP/1.1 403 ")
    assert not app.app.seen


async def test_plaintext_to_a_port_that_wants_certificates_is_not_answered(app: Guarded) -> None:
    async with client(app.proxy.address) as peer:
        peer.send(GET)
        assert b"HTTP/1.1 2" not in await peer.rest()
    assert not app.app.seen
