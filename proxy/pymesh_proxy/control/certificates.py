"""The certificate client: obtains this workload's certificate from citadel and renews it at half of its life.

Key and request are made, and the answer is checked, in a short-lived child process (`csr`), so that the sidecar does
not carry `cryptography`. While no new certificate can be had, the old one stays in use; when it expires, that is said
loudly.
"""

import asyncio
import contextlib
import json
import logging
import math
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pymesh import istio_ca
from pymesh.grpc.status import RpcError
from pymesh.names import SDS_ROOT, SDS_WORKLOAD
from pymesh_proxy.control.backoff import Backoff
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.roots import TrustedRoots, fingerprints, root_of
from pymesh_proxy.control.secrets import MAX_SECRET_BYTES, Certificate, Roots, SecretStore

log = logging.getLogger(__name__)

# Seconds. Istio's default life of a workload certificate.
VALIDITY = 24 * 3600
# The share of its life after which a certificate is renewed, and how wide that is spread over the proxies.
RENEW_AT = 0.5
RENEW_SPREAD = 0.1
# Seconds for citadel to sign, and for the child to start, make a key and check a chain on a busy machine.
SIGN_TIMEOUT = 10.0
CHILD_TIMEOUT = 30.0
# Seconds between two looks at the roots file: kubelet takes a minute to project a changed ConfigMap anyway.
ROOTS_INTERVAL = 30.0
# Seconds over which proxies spread the renewals that another root asks for: each takes a third of a second of CPU, and
# a node may have a hundred of them.
ROTATION_SPREAD = 10.0


class CertificateError(Exception):
    """No certificate this time, and why."""


@dataclass(slots=True)
class CertificateStats:
    """Counters for the admin port.

    Attributes:
        issued: certificates obtained; failures: attempts that failed.
        last_error: why the last attempt failed; empty after a success.
        not_after: end of the current certificate's life in Unix seconds, 0 without one.
    """

    issued: int = 0
    failures: int = 0
    last_error: str = ""
    not_after: float = 0.0


class CertificateClient:
    """Publishes SDS_WORKLOAD (certificate and key) in `store`.

    Where the mesh's roots change, and another one than ours is the first of them, the certificate is renewed: the first
    is the one that signs.

    Args:
        channel: to citadel, with the token in its metadata.
        roots: what the mesh trusts; a changed file is taken up without a restart.
        rng: spreads renewals and retries.
        clock: Unix seconds.
    """

    def __init__(
        self,
        channel: Channel,
        node: Node,
        store: SecretStore,
        *,
        roots: TrustedRoots,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self.stats = CertificateStats()
        self._channel = channel
        self._uri = str(node.identity)
        self._store = store
        self._roots = roots
        self._rng = rng
        self._clock = clock
        self._backoff = Backoff(rng)
        self._roots_problem = ""

    @property
    def ready(self) -> bool:
        """Whether there is a certificate that has not expired."""
        return self._clock() < self.stats.not_after

    @property
    def waiting_for(self) -> str:
        """One sentence on what is awaited before `ready`, and why it does not come; empty when ready."""
        if self.ready:
            return ""
        what = "a new certificate, the old one has expired," if self.stats.issued else "a certificate"
        reason = self.stats.last_error.removeprefix(f"{self._channel.target}: ")
        return f"waiting for {what} from {self._channel.target}" + (f": {reason}" if reason else "")

    async def run(self) -> None:
        """Obtain and renew; ends only by cancellation."""
        other_roots = asyncio.Event()
        unsubscribe = self._store.subscribe(lambda name: other_roots.set() if name == SDS_ROOT else None)
        try:
            while True:
                due = self._clock() + await self._attempt()
                # By short steps, since the wall clock may jump, and a machine may sleep, past the certificate's end.
                while (left := due - self._clock()) > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(left, ROOTS_INTERVAL)):
                            await other_roots.wait()
                    self._look_at_roots()
                    if other_roots.is_set():
                        other_roots.clear()
                        due = min(due, self._clock() + self._until_signed_anew())
        finally:
            unsubscribe()

    def _until_signed_anew(self) -> float:
        """Seconds until a certificate of the root that signs now should be asked for; none if it is ours."""
        roots = self._store.get(SDS_ROOT)
        signs = fingerprints(roots.pem)[:1] if isinstance(roots, Roots) else []
        ours = root_of(self._store)
        if not signs or not ours or signs == [ours]:
            return math.inf
        delay = self._rng.uniform(0.0, ROTATION_SPREAD)
        log.info("another root signs now: the certificate of %s is renewed in %.1f s", self._uri, delay)
        return delay

    async def _attempt(self) -> float:
        """Try to get a certificate; seconds until the next attempt is due."""
        try:
            certificate = await self._obtain()
        except (CertificateError, RpcError, OSError, TimeoutError) as error:
            self.stats.failures += 1
            status = error.status if isinstance(error, RpcError) else None
            self.stats.last_error = (status.message or str(status)) if status else str(error) or type(error).__name__
            delay = self._backoff.delay()
            if self.stats.issued and not self.ready:
                log.error(
                    "the certificate of %s has EXPIRED and cannot be renewed: %s", self._uri, self.stats.last_error
                )
            else:
                log.warning("no certificate: %s; trying again in %.1f s", self.stats.last_error, delay)
            return delay
        self._backoff.reset()
        self.stats.issued += 1
        self.stats.last_error = ""
        self.stats.not_after = certificate.not_after
        self._store.put(SDS_WORKLOAD, certificate)
        delay = renewal_delay(certificate, self._clock(), self._rng)
        log.info("certificate %s of %s, renewed in %.0f s", certificate.serial, self._uri, delay)
        return delay

    async def _obtain(self) -> Certificate:
        """One certificate from beginning to end."""
        roots = self._read_roots()
        async with _child() as child:
            csr = (await _ask(child, {"uri": self._uri}))["csr"]
            request = istio_ca.encode_request(istio_ca.CertificateRequest(csr, VALIDITY))
            answer = await self._channel.unary(istio_ca.PATH, request, within=SIGN_TIMEOUT)
            try:
                chain = istio_ca.decode_response(answer)
            except ValueError as error:
                raise CertificateError(f"{self._channel.target}: {error}") from error
            secret = await _ask(child, {"chain": chain, "roots": roots.decode("ascii", "replace")})
        if "error" in secret:
            raise CertificateError(f"{self._channel.target}: {secret['error']}")
        return Certificate(
            chain=secret["chain"].encode(),
            key=secret["key"].encode(),
            not_before=float(secret["not_before"]),
            not_after=float(secret["not_after"]),
            serial=secret["serial"],
            uri=self._uri,
        )

    def _read_roots(self) -> bytes:
        """What the mesh trusts now; it is also what the store has from here on."""
        try:
            return self._roots.in_force()
        except OSError as error:
            raise CertificateError(f"cannot read the mesh's roots: {error}") from error

    def _look_at_roots(self) -> None:
        """Take up a roots file that changes between two renewals. The last good one stays when it cannot be read."""
        problem = ""
        try:
            self._read_roots()
        except CertificateError as error:
            problem = f"{error}; the last good roots stay in use"
            if problem != self._roots_problem:
                log.warning("%s", problem)
        self._roots_problem = problem


def renewal_delay(certificate: Certificate, now: float, rng: random.Random) -> float:
    """Seconds from `now` until `certificate` should be renewed: half of its life after it began, spread a little."""
    life = certificate.not_after - certificate.not_before
    share = RENEW_AT + rng.uniform(-RENEW_SPREAD / 2, RENEW_SPREAD / 2)
    return max(certificate.not_before + life * share - now, 1.0)


@asynccontextmanager
async def _child() -> AsyncIterator[Process]:
    """The process that makes the key; it does not outlive the context."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "pymesh_proxy.control.csr", stdin=PIPE, stdout=PIPE, limit=MAX_SECRET_BYTES
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        # Also reads what is left in its pipes, and closes them.
        await child.communicate()


async def _ask(child: Process, message: dict[str, object]) -> dict[str, str]:
    """Say a line to the child and hear one, an object of strings; see `csr`."""
    if child.stdin is None or child.stdout is None:
        raise CertificateError("the process that makes keys has no pipes")
    child.stdin.write(json.dumps(message).encode() + b"\n")
    async with asyncio.timeout(CHILD_TIMEOUT):
        line = await child.stdout.readline()
    try:
        return {str(key): str(value) for key, value in json.loads(line).items()}
    except (ValueError, AttributeError):
        raise CertificateError("the process that makes keys has failed; what it said is on stderr") from None
