"""What runs in a Kubernetes cluster: its API is the source and the store.

A replica serves as soon as it has read the world, has the CA and answers webhooks; it does not have to lead for that.
Who leads also writes back.
"""

import logging
from dataclasses import dataclass, replace
from typing import Final

from lightkube import AsyncClient

from pymesh import names
from pymesh_controlplane import parts
from pymesh_controlplane.citadel.custodian import SETTLE_IN_A_CLUSTER, Custodian
from pymesh_controlplane.citadel.secret_store import SecretStore
from pymesh_controlplane.citadel.token_review import TokenReviewer
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.injection import Injection
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.kube.asking import patiently
from pymesh_controlplane.kube.client import connect
from pymesh_controlplane.kube.leader import Leader, LeaseLock
from pymesh_controlplane.kube.version import version
from pymesh_controlplane.options import WEBHOOKS, Options
from pymesh_controlplane.ports import listen, port_of
from pymesh_controlplane.running import Running, time_of_day
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.sources.kubernetes import KubernetesSource
from pymesh_controlplane.tasks import side_by_side
from pymesh_controlplane.webhooks.server import Webhooks
from pymesh_controlplane.written_back import ca_bundles, crds, root_bundles
from pymesh_controlplane.written_back.conditions import Conditions

log = logging.getLogger("pymesh.controlplane")

# Components that follow the world.
FOLLOWERS: Final = frozenset({"pilot", "policy", "galley"})


async def start(options: Options, running: Running) -> None:
    """Everything from the Kubernetes API. The pages are there first: /livez, and /ready, which says what is waited for.

    Raises:
        ConfigError: a port cannot be had, the API server cannot be found, or the CA's Secret is damaged.
    """
    if options.components == {"telemetry"}:  # it reads nothing, so its pod may be without an account's token
        collector = parts.chosen(options.components, None)
        running.pages(None, collector)
        running.mesh_port(collector, None)
        return
    cluster = _Cluster.of(options, running)
    world = cluster.world()
    pilot = running.pilot(world) if "pilot" in options.components and world is not None else None
    on_mesh_port = parts.chosen(options.components, world, parts.store(options))
    running.pages(pilot, on_mesh_port)
    trust = None
    if "citadel" in options.components:
        custodian = await cluster.custodian()
        trust = custodian.trust
        tokens = TokenReviewer(cluster.client, options.trust_domain, running.metrics)
        await running.tls_port(custodian, tokens, pilot)
        if options.components & WEBHOOKS:
            await cluster.webhooks(trust, world)
        cluster.lead(trust)
    if pilot is not None:
        await running.plain_port(pilot, "127.0.0.1")  # whoever may enter the pod may look; nobody else
    if on_mesh_port:
        running.mesh_port(on_mesh_port, trust)


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The cluster, as far as this process has to do with it."""

    options: Options
    running: Running
    client: AsyncClient
    conditions: Conditions

    @classmethod
    def of(cls, options: Options, running: Running) -> "_Cluster":
        if options.namespace != names.SYSTEM_NAMESPACE:
            sentence = (
                "this is namespace %s: sidecars, webhooks and settings of the mesh go by the names of %s all the same"
            )
            log.warning(sentence, options.namespace, names.SYSTEM_NAMESPACE)
        client = connect(options.kubeconfig)
        running.resources.push_async_callback(client.close)
        return cls(options, running, client, Conditions(client, running.metrics, time_of_day))

    def world(self) -> Source | None:
        """The world, for all who follow it; None if nobody does."""
        if self.options.components.isdisjoint(FOLLOWERS):
            return None
        source = KubernetesSource(
            self.client,
            trust_domain=self.options.trust_domain,
            with_secrets="pilot" in self.options.components,
            metrics=self.running.metrics,
            judged=self.conditions.judged,
        )
        self.running.waiting.append(lambda: f"waiting for {what}" if (what := source.waiting()) else "")
        return self.running.follow(source)

    async def custodian(self) -> Custodian:
        """The CA's, as soon as the API server has told it."""
        secrets = SecretStore(self.client, self.options.namespace, self.options.trust_domain)
        self.running.waiting.append(lambda: secrets.waiting)
        stored = await secrets.load(time_of_day)
        return Custodian(secrets, stored, self.running.metrics, time_of_day, settle=SETTLE_IN_A_CLUSTER)

    async def webhooks(self, trust: Trust, world: Source | None) -> None:
        """injector and galley on port 15017, as far as they run here."""
        listener = listen(self.options.listen, self.options.webhook_port, "--webhook-port")
        self.running.resources.enter_context(listener)
        webhooks = Webhooks(
            listener,
            trust,
            injection=await self._injection() if "injector" in self.options.components else None,
            source=world if "galley" in self.options.components else None,
            clock=time_of_day,
        )
        self.running.waiting.append(webhooks.waiting)
        self.running.collectors.append(webhooks.metrics)
        self.running.start(webhooks.run())
        self.running.ports = replace(self.running.ports, webhooks=port_of(listener))

    async def _injection(self) -> Injection:
        found = await patiently(lambda: version(self.client), lambda why: log.warning("waiting for /version: %s", why))
        config = InjectionConfig(
            proxy_image=self.options.proxy_image,
            cluster_id=self.options.cluster_id,
            trust_domain=self.options.trust_domain,
        )
        injection = Injection(self.client, found, config, self.running.metrics)
        self.running.waiting.append(injection.waiting)
        self.running.start(injection.run())
        await injection.listed()
        return injection

    def lead(self, trust: Trust) -> None:
        """Write back what has to be, whenever this replica leads."""
        client, metrics = self.client, self.running.metrics

        def roots() -> str:
            return trust.authority.root_pem

        kept = [root_bundles.keeper(client, roots, metrics)]
        if self.options.components & WEBHOOKS:
            kept.append(ca_bundles.keeper(client, roots, metrics))
        for keeper in tuple(kept):
            trust.subscribe(keeper.changed)
        if "pilot" in self.options.components:
            kept.append(crds.keeper(client, metrics))
        if "galley" in self.options.components:
            kept.append(self.conditions.keeper)
        lock = LeaseLock(client, self.options.namespace, names.CONTROL_PLANE)
        leader = Leader(lock, self.options.pod_name, metrics, time_of_day=time_of_day)
        self.running.start(leader.run(lambda: side_by_side(*(keeper.run() for keeper in kept))))
