"""The certificate of a component that runs in a pod of its own: asked of citadel, renewed at half its life.

It is an ordinary workload's: the pod's token proves the account, and the certificate names that. Where citadel is in
the same process, nobody needs to be asked.
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh import istio_ca
from pymesh.errors import MeshError
from pymesh.identity import Identity
from pymesh_controlplane.citadel.attestation import MAX_TOKEN_LENGTH
from pymesh_controlplane.citadel.authority import private_pem
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.metrics import Metrics

log = logging.getLogger("pymesh.citadel.client")

# Seconds that one attempt may take: citadel answers within milliseconds, and starts within two seconds.
ATTEMPT_TIMEOUT: Final = 5.0
# Seconds between two attempts: doubled from the first to the last, half of it by chance.
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 15.0
# Seconds between two looks at the clock, which may jump, and at a machine that may have slept.
LONGEST_SLEEP: Final = 60.0
# Bytes. A bundle of roots has some kilobytes.
MAX_ROOT_BYTES: Final = 256 * 1024


class CertificateError(MeshError):
    """There is no certificate this time; the text says why."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and what belongs to it.

    Attributes:
        chain: PEM, the leaf first, without the root.
        key: PEM.
        roots: PEM, what the mesh trusts.
        expires: when the leaf ends, with time zone.
        root: PEM, the one of `roots` that the chain leads to.
    """

    chain: str
    key: str = field(repr=False)
    roots: str
    expires: datetime
    root: str = ""


# Raises CertificateError.
Obtain: TypeAlias = Callable[[], Awaitable[Credentials]]


def of_authority(trust: Trust, identity: Identity, clock: Callable[[], datetime]) -> Obtain:
    """Certificates for `identity` from the citadel of this process."""

    async def obtain() -> Credentials:
        key, csr = _request()
        try:
            authority = trust.authority
            issued = authority.issue_workload(csr, identity, now=clock())
        except MeshError as error:
            raise CertificateError(str(error)) from error
        return Credentials("".join(issued.chain[:-1]), key, authority.root_pem, issued.expires, issued.chain[-1])

    return obtain


def of_citadel(target: str, token: Path, roots: Callable[[], str]) -> Obtain:
    """Certificates for whom the token in the file `token` speaks, from the citadel at `target` (`host:port`).

    The file is read anew each time: a kubelet renews it. `roots` is what the mesh trusts, and what citadel's own
    certificate is held against; it raises CertificateError where that cannot be told.
    """

    async def obtain() -> Credentials:
        root_pem = roots()
        metadata = bearer(token)
        key, csr = await asyncio.to_thread(_request)
        request = istio_ca.encode_request(istio_ca.CertificateRequest(csr.decode()))
        credentials = grpc.ssl_channel_credentials(root_pem.encode())
        try:
            async with grpc.aio.secure_channel(target, credentials) as channel:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(istio_ca.PATH)
                answer = await call(request, timeout=ATTEMPT_TIMEOUT, metadata=metadata, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise CertificateError(error.details() or error.code().name) from error
        return _credentials(answer, key, root_pem)

    return obtain


class Certificate:
    """Keeps a certificate fresh.

    Attributes:
        current: the one in use; None before the first.
        waiting: why there is none, or none any more that is valid; "" while there is.
        expires: when the current one ends; None before the first.
    """

    def __init__(
        self,
        obtain: Obtain,
        metrics: Metrics,
        *,
        source: str,
        clock: Callable[[], datetime],
        rng: random.Random | None = None,
    ) -> None:
        self.waiting = f"waiting for a certificate from {source}"
        self.expires: datetime | None = None
        self.current: Credentials | None = None
        self._again = asyncio.Event()
        self._subscribers: list[Callable[[], None]] = []
        self._obtain = obtain
        self._metrics = metrics
        self._source = source
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, guards nothing

    def renew(self) -> None:
        """Ask for another one now, and not when it is due."""
        self._again.set()

    def subscribe(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell()` whenever another one has come into use, until the function returned is called.

        It must not raise and not block.
        """
        self._subscribers.append(tell)
        return lambda: self._subscribers.remove(tell)

    async def run(self, use: Callable[[Credentials], None]) -> None:
        """Give `use` a certificate, and another whenever one is due, until cancelled.

        `use` may raise ssl.SSLError or CertificateError for one that is of no use: then another is asked for.
        """
        pause = FIRST_PAUSE
        while True:
            self._again.clear()
            try:
                credentials = await self._obtain()
                use(credentials)
            except (CertificateError, ssl.SSLError) as error:
                self._failed(error)
                await asyncio.sleep(pause * (0.5 + self._rng.random() / 2))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            self.waiting, self.expires, self.current = "", credentials.expires, credentials
            for tell in tuple(self._subscribers):
                tell()
            due = self._clock() + (credentials.expires - self._clock()) / 2
            log.info("certificate from %s; the next is due at %s", self._source, due.isoformat(timespec="seconds"))
            while (left := (due - self._clock()).total_seconds()) > 0 and not self._again.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LONGEST_SLEEP)):
                        await self._again.wait()

    def _failed(self, error: Exception) -> None:
        self._metrics.count("controlplane_certificate_errors")
        if self.expires is None:
            self.waiting = f"waiting for a certificate from {self._source}: {error}"
            log.warning("%s", self.waiting)
        elif self._clock() < self.expires:
            log.warning("the certificate was not renewed by %s: %s", self._source, error)
        else:
            self.waiting = f"the certificate has expired, and {self._source} does not renew it: {error}"
            log.error("%s", self.waiting)


def _request() -> tuple[str, bytes]:
    """A new private key (PEM), and a CSR over it. It asks for no name: citadel knows who calls."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return private_pem(key).decode(), csr.public_bytes(serialization.Encoding.PEM)


def _credentials(answer: bytes, key: str, root_pem: str) -> Credentials:
    try:
        chain = istio_ca.decode_response(answer)
        if len(chain) < 2:
            raise ValueError("citadel answered with fewer certificates than a leaf and a root")
        leaf = x509.load_pem_x509_certificate(chain[0].encode())
    except ValueError as error:
        raise CertificateError(str(error)) from error
    return Credentials("".join(chain[:-1]), key, root_pem, leaf.not_valid_after_utc, chain[-1])


def bearer(token: Path) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that proves by the file `token` who makes it. Raises CertificateError."""
    return (("authorization", f"Bearer {read(token, MAX_TOKEN_LENGTH).strip()}"),)


def read(path: Path, limit: int) -> str:
    """The text in a file of at most `limit` bytes. Raises CertificateError."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        text = content.decode("ascii")
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CertificateError(f"{path} is not text") from error
    if len(content) > limit or not text.strip():
        raise CertificateError(f"{path} is empty" if not text.strip() else f"{path} has more than {limit} bytes")
    return text
