"""One of several replicas does what must be done once: it holds a Lease, and works as long as it does.

Who loses the Lease, or cannot renew it in time, stops its work and goes back to the others who wait. Who ends gives it
back, so that the next one does not have to wait for it to run out. A process that was stopped for longer than its Lease
(SIGSTOP, a frozen node) may still send what it was about to: whatever is written under a Lease has a precondition or is
what any other leader would write.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Final, Protocol

from lightkube import AsyncClient
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta

from pymesh_controlplane.kube.asking import CONFLICT, NOT_FOUND, KubernetesError, ask
from pymesh_controlplane.kube.election import DURATION, JITTER, RENEW_DEADLINE, RETRY_PERIOD, Candidate, Record
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.tasks import until_first_ends

log = logging.getLogger("pymesh.leader")

# Seconds for one look at the Lease and one write; two of them fit into RENEW_DEADLINE.
ATTEMPT_TIMEOUT: Final = 4.0
# Seconds to give the Lease back in, when the process is about to end.
RELEASE_TIMEOUT: Final = 0.8

LEASE: Final = create_namespaced_resource("coordination.k8s.io", "v1", "Lease", "leases")


class Lock(Protocol):
    """A record that several can read and write, none over a version that it has not seen. Raises KubernetesError."""

    async def read(self) -> tuple[Record, str] | None:
        """What it says, and its version; None if there is none yet."""
        ...

    async def write(self, record: Record, version: str) -> None:
        """Have it say `record` if it still has `version`; empty: if there is none yet."""
        ...


class LeaseLock:
    """A Lease of the Kubernetes API. RBAC, in its namespace: leases get, create, update."""

    def __init__(self, client: AsyncClient, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name

    async def read(self) -> tuple[Record, str] | None:
        """See `Lock`."""
        try:
            lease = await ask(self._client.get(LEASE, self._name, namespace=self._namespace))
        except KubernetesError as error:
            if error.code == NOT_FOUND:
                return None
            raise
        spec: dict[str, Any] = lease.get("spec") or {}
        version = lease.metadata.resourceVersion if lease.metadata else None
        return _record(spec), version or ""

    async def write(self, record: Record, version: str) -> None:
        """See `Lock`."""
        metadata = ObjectMeta(name=self._name, namespace=self._namespace, resourceVersion=version or None)
        lease = LEASE(apiVersion="coordination.k8s.io/v1", kind="Lease", metadata=metadata, spec=_spec(record))
        await ask(self._client.replace(lease) if version else self._client.create(lease))


class Leader:
    """One replica of several. Seconds are those of the event loop's clock.

    Attributes:
        leading: whether it holds the Lease, as far as it can know.
    """

    def __init__(
        self,
        lock: Lock,
        identity: str,
        metrics: Metrics,
        *,
        time_of_day: Callable[[], datetime],
        rng: random.Random | None = None,
    ) -> None:
        self.leading = False
        self._lock = lock
        self._candidate = Candidate(identity)
        self._metrics = metrics
        self._time_of_day = time_of_day
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, guards nothing
        self._told = ""  # the last sentence of the log, which is not repeated every two seconds
        self._other = ""  # who holds the Lease, if we do not

    async def run(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run `work` whenever the Lease is ours, until cancelled; then give the Lease back.

        `work` runs until it is cancelled, and then ends within DURATION - RENEW_DEADLINE seconds.
        """
        try:
            while True:
                granted = await self._acquire()
                self._now(leading=True)
                try:
                    await until_first_ends(work(), self._renew(granted))
                finally:
                    self._now(leading=False)
        finally:
            await self._release()

    async def _acquire(self) -> float:
        """Wait until the Lease is ours; when what was granted was asked for."""
        while (granted := await self._attempt(ATTEMPT_TIMEOUT)) is None:  # noqa: ASYNC110  nothing tells when it is free
            await asyncio.sleep(RETRY_PERIOD * (1 + (JITTER - 1) * self._rng.random()))
        return granted

    async def _renew(self, granted: float) -> None:
        """Hold the Lease until it could not be renewed in time, or is another one's."""
        loop = asyncio.get_running_loop()
        while (left := granted + RENEW_DEADLINE - loop.time()) > 0:
            await asyncio.sleep(min(RETRY_PERIOD, left))
            left = granted + RENEW_DEADLINE - loop.time()
            again = await self._attempt(min(ATTEMPT_TIMEOUT, left)) if left > 0 else None
            granted = granted if again is None else again
            if self._other:
                log.error("the Lease was taken away: now it is %s's", self._other)
                return
        log.error("the Lease was not renewed for %g s: another replica may lead now", RENEW_DEADLINE)

    async def _attempt(self, timeout: float) -> float | None:  # noqa: ASYNC109  a part of what is left until the deadline
        """Take or renew the Lease; when that was asked for, or None if it was not granted."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                found = await self._lock.read()
                record, version = found or (None, "")
                asked = loop.time()
                claim = self._candidate.claim(record, asked, self._time_of_day())
                self._other = record.holder if claim is None and record is not None else ""
                if claim is None:
                    self._tell(f"{self._other} leads")
                    return None
                await self._lock.write(claim, version)
        except (KubernetesError, TimeoutError) as error:
            if not (isinstance(error, KubernetesError) and error.code == CONFLICT):  # then another one was faster
                self._metrics.count("controlplane_leader_errors")
                self._tell(f"the Lease cannot be had: {str(error) or 'no answer in time'}", logging.WARNING)
            return None
        return asked

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                found = await self._lock.read()
                record, version = found or (None, "")
                if (empty := self._candidate.give_back(record, self._time_of_day())) is not None:
                    await self._lock.write(empty, version)
                    log.info("gave the Lease back")
        except (KubernetesError, TimeoutError) as error:
            log.warning("the Lease is not given back, it runs out in %d s: %s", DURATION, error)

    def _now(self, *, leading: bool) -> None:
        self.leading = leading
        self._metrics.set("controlplane_leader", float(leading))
        self._tell("this replica leads" if leading else "this replica leads no longer")

    def _tell(self, sentence: str, level: int = logging.INFO) -> None:
        if sentence != self._told:
            log.log(level, "%s", sentence)
        self._told = sentence


def _record(spec: dict[str, Any]) -> Record:
    """What the spec of a Lease says; whatever others may have written into it."""
    return Record(
        str(spec.get("holderIdentity") or ""),
        int(spec.get("leaseDurationSeconds") or DURATION),
        str(spec.get("acquireTime") or ""),
        str(spec.get("renewTime") or ""),
        int(spec.get("leaseTransitions") or 0),
    )


def _spec(record: Record) -> dict[str, Any]:
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.duration,
        "acquireTime": record.acquired,
        "renewTime": record.renewed,
        "leaseTransitions": record.transitions,
    }
