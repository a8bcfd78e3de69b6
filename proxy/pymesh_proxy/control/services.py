"""The services that filters in force ask: policy services and external authorization services, by cluster."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from pymesh.grpc.status import RpcError, TooManyCallsError
from pymesh.policy_api import CHECK_PATH, RULES_EXTENSION
from pymesh_proxy.config.model import HttpManager, Snapshot
from pymesh_proxy.control.backoff import Backoff
from pymesh_proxy.control.containment import AlarmContainment
from pymesh_proxy.control.grpc_cluster import ClusterChannel
from pymesh_proxy.control.leases import GOODBYE, LONGEST_PAUSE, Host, LeasedRule, Leases
from pymesh_proxy.filters.authz import AnswerError, read_answer
from pymesh_proxy.filters.rates import RateSettings
from pymesh_proxy.filters.remembered import Remembered
from pymesh_proxy.filters.slots import SlotSettings
from pymesh_proxy.filters.waiting import Refusal
from pymesh_proxy.telemetry.filter_metrics import FilterMetrics, PythonFilterStats
from pymesh_proxy.telemetry.jwt_metrics import JwtStats
from pymesh_proxy.telemetry.policy_metrics import PolicyMetrics, PolicyStats
from pymesh_proxy.telemetry.rbac_metrics import RbacStats
from pymesh_proxy.telemetry.record import RequestRecord

log = logging.getLogger("pymesh.policy")

# Seconds for a probe, which may have to connect first. To find the service, it has to be answered in time.
PROBE_TIMEOUT: Final = 1.0


class PolicyClient:
    """The policy service behind one cluster: see filters.services.PolicyService."""

    def __init__(self, host: Host, cluster: str, metrics: PolicyMetrics, node: Callable[[], str]) -> None:
        self.remembered = Remembered()
        self.away = ""
        self.channel = ClusterChannel(host, cluster)
        self.leases = Leases(host, self.channel, metrics, node)
        self.leases.on_epoch = self.remembered.follow
        self.clock = host.loop.time  # see filters.services.PolicyService
        self._host = host
        self._metrics = metrics
        self._probe: asyncio.Task[None] | None = None
        self._left = False

    def leased(self, settings: SlotSettings | RateSettings) -> LeasedRule:
        """See filters.services.PolicyService."""
        return self.leases.add(settings)

    def stats(self, rule: str) -> PolicyStats:
        """See filters.services.PolicyService."""
        return self._metrics.of(rule)

    def wait(self, rule: LeasedRule, record: RequestRecord, within: float) -> Awaitable[Refusal | None]:
        """See filters.services.PolicyService."""
        return self.leases.wait(rule, record, within)

    async def check(self, request: bytes, within: float) -> bytes:
        """See filters.services.PolicyService."""
        try:
            return await self.channel.unary(CHECK_PATH, request, within=within)
        except TooManyCallsError:
            raise  # it is there, and busy with the questions before this one
        except RpcError as error:
            self.lost(error.status.message or str(error))
            raise

    def hear_of_changes(self) -> None:
        """See filters.services.PolicyService."""
        self.leases.keep = True

    def lost(self, why: str) -> None:
        """See filters.services.PolicyService."""
        if not self.away:
            log.warning("policy service %s is away: %s", self.channel.cluster_name, why)
        self.away = why
        if self._probe is None and not self._left:
            self._probe = self._host.spawn(self._find())

    async def _find(self) -> None:
        """Ask a question about no rule until it is answered, in time; requests are not asked about meanwhile."""
        backoff = Backoff(random.SystemRandom(), LONGEST_PAUSE)
        message = CheckRequest()
        message.attributes.context_extensions[RULES_EXTENSION] = ""
        probe = message.SerializeToString()
        while self.away:
            await asyncio.sleep(backoff.delay())
            begun = self.clock()
            try:
                read_answer(await self.channel.unary(CHECK_PATH, probe, within=PROBE_TIMEOUT))
            except (RpcError, AnswerError) as error:
                self.away = (error.status.message if isinstance(error, RpcError) else "") or str(error)
                if self.clock() - begun >= PROBE_TIMEOUT:
                    self.channel.renew()
                continue
            if self.clock() - begun <= self.leases.timeout:
                self.away = ""
        log.info("policy service %s: back", self.channel.cluster_name)
        self._probe = None

    async def leave(self) -> None:
        """Give the slots back. Questions that are open are answered, for requests that came in by an older filter."""
        self._left = True
        if self._probe is not None:
            self._probe.cancel()
        await self.leases.close()
        self.channel.renew()

    async def close(self) -> None:
        """Give the slots back and end every call."""
        await self.leave()
        await _close(self.channel)


class AuthorizationClient:
    """An external authorization service: see filters.services.Authorization."""

    def __init__(self, host: Host, cluster: str, authority: str, metrics: PolicyMetrics) -> None:
        self.channel = ClusterChannel(host, cluster, authority)
        self._host = host
        self._stats = metrics.of(cluster)

    def stats(self) -> PolicyStats:
        """See filters.services.Authorization."""
        return self._stats

    def clock(self) -> float:
        """See filters.services.Authorization."""
        return self._host.loop.time()

    async def check(self, request: bytes, within: float) -> bytes:
        """See filters.services.Authorization."""
        return await self.channel.unary(CHECK_PATH, request, within=within)

    async def close(self) -> None:
        """End every call."""
        await _close(self.channel)


async def _close(channel: ClusterChannel) -> None:
    """In bounded time: a connection may just be in the making, to a peer that does not answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE):
            await channel.close()


class FilterServices:
    """See filters.services.Services. Whatever no filter in force asks any more is closed.

    Attributes:
        node: our xDS node id.
        policies: the policy services that are asked, by cluster.
    """

    def __init__(self, host: Host, stats: FilterMetrics) -> None:
        self.node = ""
        self._host = host
        self._stats = stats
        self._containment: AlarmContainment | None = None
        self.policies: dict[str, PolicyClient] = {}
        self._authorizations: dict[tuple[str, str], AuthorizationClient] = {}
        self._asked: set[PolicyClient | AuthorizationClient] = set()

    def follow(self, snapshot: Snapshot) -> None:
        """Connect the filters of `snapshot`, which comes into force now, with what they ask."""
        self._asked = set()
        for client in self.policies.values():
            client.leases.begin()
        for listener in snapshot.listeners.values():
            for chain in listener.all_chains():
                filters = chain.handler.filters if isinstance(chain.handler, HttpManager) else chain.handler.rules
                for item in filters:
                    if item.connect is not None:
                        item.connect(self)
        for client in self.policies.values():
            client.leases.settle()
        for cluster in [cluster for cluster, client in self.policies.items() if client not in self._asked]:
            self._host.spawn(self.policies.pop(cluster).leave())
        for key in [key for key, client in self._authorizations.items() if client not in self._asked]:
            self._authorizations.pop(key).channel.renew()

    def policy(self, cluster: str, timeout: float) -> PolicyClient:
        """See filters.services.Services."""
        client = self.policies.get(cluster)
        if client is None:
            client = PolicyClient(self._host, cluster, self._stats.policy, lambda: self.node)
            self.policies[cluster] = client
        self._asked.add(client)
        client.leases.timeout = max(client.leases.timeout, timeout)
        return client

    def authorization(self, cluster: str, authority: str = "") -> AuthorizationClient:
        """See filters.services.Services."""
        key = cluster, authority
        client = self._authorizations.get(key)
        if client is None:
            client = self._authorizations[key] = AuthorizationClient(self._host, *key, self._stats.policy)
        self._asked.add(client)
        return client

    def jwt_stats(self, prefix: str) -> JwtStats:
        """See filters.services.Services."""
        return self._stats.jwt.of(prefix)

    def rbac_stats(self, prefix: str) -> RbacStats:
        """See filters.services.Services."""
        return self._stats.rbac.of(prefix)

    def network_rbac_stats(self, prefix: str) -> RbacStats:
        """See filters.services.Services."""
        return self._stats.network_rbac.of(prefix)

    def filter_stats(self, name: str) -> PythonFilterStats:
        """See filters.services.Services."""
        return self._stats.python.of(name)

    def containment(self) -> AlarmContainment:
        """See filters.services.Services."""
        if self._containment is None:
            self._containment = AlarmContainment()
        return self._containment

    async def close(self) -> None:
        """Take leave of every service, in bounded time."""
        async with asyncio.TaskGroup() as group:
            for policy in self.policies.values():
                group.create_task(policy.close())
            for authorization in self._authorizations.values():
                group.create_task(authorization.close())
