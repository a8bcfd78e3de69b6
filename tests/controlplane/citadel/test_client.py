"""The certificate of a component in a pod of its own: asked of citadel, renewed, and why there is none."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509

from pymesh_controlplane.citadel import client
from pymesh_controlplane.citadel.attestation import Authenticator, Caller, TlsPeer, TokenVerifier
from pymesh_controlplane.citadel.authority import self_signed
from pymesh_controlplane.citadel.client import Certificate, CertificateError, Credentials, of_authority, of_citadel
from pymesh_controlplane.citadel.following import Roots
from pymesh_controlplane.citadel.service import CertificateService, ServerContext
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.metrics import Metrics
from tests.controlplane.citadel.support import REVIEWS, Tokens
from tests.support.waiting import eventually

AUTHORITY = self_signed("cluster.local", now=datetime.now(UTC))


def now() -> datetime:
    return datetime.now(UTC)


def identity_in(credentials: Credentials) -> list[str]:
    leaf = x509.load_pem_x509_certificate(credentials.chain.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


@asynccontextmanager
async def citadel(tokens: Tokens) -> AsyncIterator[str]:
    """The real CSR service on a real gRPC server; `localhost:port`."""
    authenticator = Authenticator(TokenVerifier(tokens.jwks, "cluster.local", Metrics()), "cluster.local")

    async def caller(context: ServerContext) -> Caller:
        sent = [(str(name), value) for name, value in context.invocation_metadata() or ()]
        return await authenticator.authenticate(sent, TlsPeer("client"))

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((CertificateService(Trust(AUTHORITY), caller, Metrics(), now).handler(),))
    issued, key = AUTHORITY.issue_server(("localhost",), now=now())
    pair = (key.encode(), "".join(issued.chain).encode())
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(0)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Tokens, Path, Path]:
    """An issuer of tokens, a file with one, and a file with the mesh's root."""
    tokens = Tokens(tmp_path)
    tokens.publish()
    (tmp_path / "token").write_text(tokens.token() + "\n")
    (tmp_path / "root.pem").write_text(AUTHORITY.root_pem)
    return tokens, tmp_path / "token", tmp_path / "root.pem"


async def test_citadel_gives_a_certificate_for_the_account_of_the_token(files: tuple[Tokens, Path, Path]) -> None:
    """With its chain, its key and what the mesh trusts."""
    tokens, token, roots = files
    async with citadel(tokens) as target:
        credentials = await of_citadel(target, token, Roots(target, token, roots).current)()
    assert identity_in(credentials) == [str(REVIEWS)]
    assert credentials.roots == AUTHORITY.root_pem
    assert timedelta(hours=23) < credentials.expires - now() < timedelta(hours=25)
    assert "PRIVATE KEY" in credentials.key
    assert "PRIVATE" not in repr(credentials)


async def test_why_there_is_none_is_one_sentence(files: tuple[Tokens, Path, Path]) -> None:
    """Whatever is missing or wrong."""
    tokens, token, roots = files
    async with citadel(tokens) as target:
        with pytest.raises(CertificateError, match=r"absent cannot be read: No such file"):
            await of_citadel(target, token.with_name("absent"), Roots(target, token, roots).current)()
        token.write_text(tokens.token(exp=1))
        with pytest.raises(CertificateError, match="the token is refused: Signature has expired"):
            await of_citadel(target, token, Roots(target, token, roots).current)()
        token.write_text(tokens.token())
        roots.write_text(self_signed("cluster.local", now=now()).root_pem)
        with pytest.raises(CertificateError, match=r"(?i)certificate"):
            await of_citadel(target, token, Roots(target, token, roots).current)()
        roots.write_text(" ")
        with pytest.raises(CertificateError, match=r"root\.pem is empty"):
            await of_citadel(target, token, Roots(target, token, roots).current)()
        roots.write_bytes(b"\xff\xfe")
        with pytest.raises(CertificateError, match=r"root\.pem is not text"):
            await of_citadel(target, token, Roots(target, token, roots).current)()
        roots.write_text("x" * (client.MAX_ROOT_BYTES + 1))
        with pytest.raises(CertificateError, match="more than"):
            await of_citadel(target, token, Roots(target, token, roots).current)()
    roots.write_text(AUTHORITY.root_pem)
    with pytest.raises(CertificateError, match=r"(?i)connect"):
        await of_citadel(target, token, Roots(target, token, roots).current)()


async def test_in_the_process_of_citadel_nobody_is_asked() -> None:
    """The account is what the process was told."""
    credentials = await of_authority(Trust(AUTHORITY), REVIEWS, now)()
    assert identity_in(credentials) == [str(REVIEWS)]
    expired = of_authority(Trust(AUTHORITY), REVIEWS, lambda: now() + timedelta(days=4000))
    with pytest.raises(CertificateError, match="expired"):
        await expired()


class Script:
    """An Obtain that fails, or gives certificates of so many seconds, as it is told."""

    def __init__(self, *steps: str | float) -> None:
        self.steps = list(steps)
        self.given = 0

    async def __call__(self) -> Credentials:
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, str):
            raise CertificateError(step)
        self.given += 1
        return Credentials("chain", "key", "roots", now() + timedelta(seconds=step))


@asynccontextmanager
async def kept(script: Script, metrics: Metrics | None = None) -> AsyncIterator[tuple[Certificate, list[Credentials]]]:
    used: list[Credentials] = []
    certificate = Certificate(script, metrics or Metrics(), source="citadel", clock=now, rng=random.Random(1))
    task = asyncio.get_running_loop().create_task(certificate.run(used.append))
    try:
        yield certificate, used
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)


async def test_it_tries_until_it_has_one_and_says_meanwhile_what_it_waits_for() -> None:
    """And counts the attempts."""
    metrics, script = Metrics(), Script("citadel is down")
    async with kept(script, metrics) as (certificate, used):
        await eventually(lambda: metrics.counted("controlplane_certificate_errors") > 2)
        assert certificate.waiting == "waiting for a certificate from citadel: citadel is down"
        script.steps = [3600.0]
        await eventually(lambda: used)
        assert certificate.waiting == ""
    assert len(used) == 1


async def test_it_is_renewed_at_half_of_its_life() -> None:
    """Over and over."""
    async with kept(Script(0.2)) as (_, used):
        await eventually(lambda: len(used) >= 3)
    assert all(later.expires - earlier.expires < timedelta(seconds=2) for earlier, later in pairwise(used))


async def test_one_that_cannot_be_renewed_serves_until_it_expires() -> None:
    """Then it says so."""
    async with kept(Script(0.4, "citadel is down")) as (certificate, used):
        await eventually(lambda: used)
        assert certificate.waiting == ""
        await eventually(lambda: certificate.waiting)
        assert now() >= used[0].expires
        assert certificate.waiting == "the certificate has expired, and citadel does not renew it: citadel is down"


async def test_one_that_is_of_no_use_is_not_the_last_word() -> None:
    """OpenSSL does not take it: another is asked for."""
    refused: list[Credentials] = []

    def use(credentials: Credentials) -> None:
        refused.append(credentials)
        if len(refused) == 1:
            raise ssl.SSLError("bad certificate")

    certificate = Certificate(Script(3600.0), Metrics(), source="citadel", clock=now)
    task = asyncio.get_running_loop().create_task(certificate.run(use))
    await eventually(lambda: certificate.expires)
    assert len(refused) == 2
    task.cancel()
    await asyncio.wait([task])
