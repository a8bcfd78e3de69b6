"""Names to addresses for STRICT_DNS and LOGICAL_DNS clusters, without stopping the loop.

Names are resolved by the system (`getaddrinfo` in a worker thread), since that is the only resolver that honours
/etc/hosts, search domains and ndots exactly as the application beside us does. It says nothing of the record's
lifetime, so names are looked up again every `dns_refresh` seconds of their cluster.

A failed lookup keeps the last good addresses and is tried again with a pause that doubles.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pymesh_proxy.config.model import Cluster, DnsFamily
from pymesh_proxy.upstream.registry import EndpointSpec

log = logging.getLogger("pymesh.proxy.dns")

# The system's resolver tries each server twice for 5 s by default; what takes longer than this has failed.
LOOKUP_TIMEOUT: Final = 15.0
# Lookups at once. A thread is lost to each one that hangs, and the loop's pool has few.
MAX_LOOKUPS: Final = 3
# Addresses taken from one answer: more are a mistake or an attack, and each one becomes an endpoint.
MAX_ADDRESSES: Final = 256

_FAMILIES: Final = {DnsFamily.V4_ONLY: socket.AF_INET, DnsFamily.V6_ONLY: socket.AF_INET6}


class Publish(Protocol):
    """What is done with addresses that changed: `Configuration.apply_addresses`, and what follows from it."""

    def __call__(self, cluster: str, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """`addresses` are those of every name of `cluster` that was ever resolved, sorted."""


Lookup = Callable[[str, DnsFamily], Awaitable[tuple[str, ...]]]


class ResolutionError(Exception):
    """A name that could not be resolved; the text says why."""


async def system_lookup(host: str, family: DnsFamily) -> tuple[str, ...]:
    """The addresses of `host` by the system's resolver, sorted; none if the name has none of this family.

    Raises:
        ResolutionError: there is no such name, or no answer.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT):
            found = await loop.getaddrinfo(
                host, None, family=_FAMILIES.get(family, socket.AF_UNSPEC), type=socket.SOCK_STREAM
            )
    except TimeoutError as error:
        raise ResolutionError(f"no answer within {LOOKUP_TIMEOUT:g} s") from error
    except (OSError, UnicodeError) as error:
        raise ResolutionError(str(error)) from error
    return select({item[4][0] for item in found if isinstance(item[4][0], str)}, family)


def select(addresses: set[str], family: DnsFamily) -> tuple[str, ...]:
    """Those of `addresses` that `family` asks for, sorted, so that the same set always looks the same."""
    v4 = sorted(address for address in addresses if ":" not in address)
    v6 = sorted(address for address in addresses if ":" in address)
    match family:
        case DnsFamily.V4_ONLY:
            chosen = v4
        case DnsFamily.V6_ONLY:
            chosen = v6
        case DnsFamily.V4_PREFERRED:
            chosen = v4 or v6
        case DnsFamily.AUTO:
            chosen = v6 or v4
        case DnsFamily.ALL:
            chosen = v6 + v4
    return tuple(chosen[:MAX_ADDRESSES])


@dataclass(frozen=True, slots=True)
class _Job:
    """A name to keep resolved: all that a lookup depends on. A change of any of it is another job."""

    cluster: str
    host: str
    family: DnsFamily
    refresh: float
    failure_refresh: tuple[float, float]


class DnsResolver:
    """Keeps the names of DNS clusters resolved, one task each, for as long as `run` runs."""

    def __init__(self, publish: Publish, *, lookup: Lookup = system_lookup) -> None:
        self._publish = publish
        self._lookup = lookup
        self._jobs: dict[_Job, asyncio.Task[None] | None] = {}
        self._addresses: dict[str, dict[str, tuple[str, ...]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)

    def follow(self, clusters: Mapping[str, Cluster]) -> None:
        """From now on resolve the names of these clusters, and no others: call it with each new snapshot's clusters."""
        wanted = {_job(cluster, target) for cluster in clusters.values() for target in cluster.dns_targets}
        for job in self._jobs.keys() - wanted:
            task = self._jobs.pop(job)
            if task is not None:
                task.cancel()
        for job in wanted - self._jobs.keys():
            self._jobs[job] = None
            self._start(job)
        names = {(job.cluster, job.host) for job in wanted}
        for cluster, addresses in list(self._addresses.items()):
            kept = {host: found for host, found in addresses.items() if (cluster, host) in names}
            if kept:
                self._addresses[cluster] = kept
            else:
                del self._addresses[cluster]

    async def run(self) -> None:
        """Resolve until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for job in tuple(self._jobs):
                    self._start(job)
                await asyncio.get_running_loop().create_future()  # the tasks do the work; this waits for the end
            finally:
                self._group = None

    def _start(self, job: _Job) -> None:
        if self._group is not None:
            self._jobs[job] = self._group.create_task(self._keep_resolved(job), name=f"dns {job.host}")

    async def _keep_resolved(self, job: _Job) -> None:
        first, longest = job.failure_refresh
        pause = first
        while True:
            try:
                async with self._slots:
                    found = await self._lookup(job.host, job.family)
                if not found:
                    raise ResolutionError("the name has no address of this family")
            except ResolutionError as error:
                log.warning("cannot resolve %s for cluster %s: %s", job.host, job.cluster, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            pause = first
            self._keep(job, found)
            await asyncio.sleep(job.refresh)

    def _keep(self, job: _Job, found: tuple[str, ...]) -> None:
        """Pass on what changed. `follow` may be called from within `publish`, and this job end with it."""
        addresses = self._addresses.setdefault(job.cluster, {})
        if addresses.get(job.host) != found:
            addresses[job.host] = found
            self._publish(job.cluster, dict(addresses))


def _job(cluster: Cluster, target: EndpointSpec) -> _Job:
    return _Job(cluster.name, target.host, cluster.dns_family, cluster.dns_refresh, cluster.dns_failure_refresh)
