"""The supervisor: what was applied, the pods that run it, and the loop that keeps the two together.

Every change, whether a person applies something or a probe answers differently, sets one event; the loop then compares
what is wanted with what there is (`reconcile.plan`), acts, and tells pilot, DNS and the address translation of it.
"""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pymesh import names
from pymesh.errors import ConfigError, MeshError
from pymesh.resources.redaction import redacted
from pymesh.resources.resource import Key
from pymesh_controlplane.injector.containers import ENVOY, PROXY, InjectionConfig
from pymesh_controlplane.injector.inject import inject
from pymesh_controlplane.local import http, observe, podcheck, podspec, reconcile, settled
from pymesh_controlplane.local.downward import PodFacts
from pymesh_controlplane.local.host_ports import HostPorts
from pymesh_controlplane.local.judge import Applied
from pymesh_controlplane.local.network import AddressPool, Network
from pymesh_controlplane.local.pod import PodRunner, Surroundings
from pymesh_controlplane.local.programs import Programs
from pymesh_controlplane.local.publish import Publisher, Seen
from pymesh_controlplane.local.state import State
from pymesh_controlplane.local.store import PRIVATE_KINDS, Outcome, Store
from pymesh_controlplane.local.tokens import TokenSigner

log = logging.getLogger("pymesh.local")

# Seconds between two rounds of the loop: what changes within is answered at once, by one round.
ROUND: Final = 0.02
# Seconds that pods have to finish when the whole mesh ends; nobody is left to be served.
MESH_GRACE: Final = 3.0
# Seconds before a pod is made anew after something in here, not in the pod, went wrong with it.
MISHAP_PAUSE: Final = 5.0
# Bytes of an answer of the mesh's own pods: pilot has some hundred for each proxy, the collector a few KiB for each
# request that is asked for.
MAX_ANSWER: Final = 16 * 1024 * 1024
# Bytes of an answer that is a refusal.
MAX_REASON: Final = 1024
# Seconds for one.
ASK_TIMEOUT: Final = 5.0

# What reads the configuration shows it there (`pilot/status.py`).
CONFIGZ: Final = "/debug/configz"
POLICY: Final = "policy"
# Containers that pilot tells what to do.
PROXIES: Final = frozenset({PROXY, ENVOY})

PodId = tuple[str, str]


class AbsentError(MeshError):
    """What was asked for is not part of this mesh."""


@dataclass(slots=True)
class Running:
    """A pod, what it was made of, and the task that runs it."""

    runner: PodRunner
    owner: str
    template_hash: str
    manifest: dict[str, Any]
    task: "asyncio.Task[None]"


class Supervisor:
    """One mesh. `prepare` and then `serve` run it; the other methods are what the API does."""

    def __init__(
        self,
        state: State,
        network: Network,
        signer: TokenSigner,
        programs: Programs,
        injection: InjectionConfig,
        *,
        host_ports: HostPorts,
        has_pilot: bool = True,
    ) -> None:
        self.state = state
        self._has_pilot = has_pilot
        self.store = Store(state.applied, state.secrets, state.temporary, injection)
        self.stop = asyncio.Event()
        self.root = ""
        self._around = Surroundings(
            mesh=state.mesh,
            pods_dir=state.pods,
            staging=state.staging,
            network=network,
            signer=signer,
            config_map=self.config_map,
            host_ports=host_ports,
            required=programs.required,
            path=programs.path,
        )
        self._network = network
        self._host_ports = host_ports
        self._injection = injection
        self._pods: dict[PodId, Running] = {}
        self._blocked: dict[PodId, tuple[str, str]] = {}
        self._addresses = AddressPool()
        self._publisher = Publisher(state, self.store, network)
        self._changed = asyncio.Event()
        self._carried_out = False  # whether the loop has done what it last set out to do
        self._tasks: asyncio.TaskGroup | None = None

    # --- what the API does ---------------------------------------------------------------------------------------

    def apply(self, items: Iterable[Applied]) -> list[tuple[Key, Outcome]]:
        """Put checked resources in force; the loop does the rest."""
        self._changed.set()
        return self.store.apply(items)

    def delete(self, key: Key) -> None:
        """Take a resource out of force. A pod of a Deployment is ended, and made anew.

        Raises:
            KeyError: there is no such resource.
        """
        pod = self._pods.get((key.namespace, key.name)) if key.kind == "Pod" else None
        if key in self.store.items or pod is None:
            self.store.delete(key)
        else:
            self._end(pod)
        self._changed.set()

    def rows(self) -> list[dict[str, Any]]:
        """The lines of `pymesh ps`."""
        rows = [
            observe.row(
                *pod_id,
                pod.owner,
                pod.runner.status(),
                ip=pod.runner.facts.ip,
                created=pod.runner.created,
                host_ports=HostPorts.of(pod.runner.spec),
                labels=pod.runner.facts.labels,
            )
            for pod_id, pod in self._pods.items()
        ]
        rows += [observe.blocked_row(*pod_id, owner, why) for pod_id, (owner, why) in self._blocked.items()]
        return sorted(rows, key=lambda row: (row["namespace"], row["name"]))

    def waiting(self) -> list[str]:
        """What the mesh still waits for, a sentence each; empty when everything that was applied runs and is ready."""
        wanted = {(want.namespace, want.name): want.replicas for want in self._wanted()}
        return observe.waiting(wanted, self.rows())

    async def unsettled(self) -> list[str]:
        """What the proxies do not know yet of what is ready; empty once a request finds all of it.

        Raises:
            MeshError: the control plane does not answer.
        """
        if not self._has_pilot:
            return []
        if self._changed.is_set() or not self._carried_out:
            return ["the last change is about to be carried out"]
        shown = {**self.store.shown, **self._publisher.shown}
        config = json.loads(await self.ask(names.CONTROL_PLANE, CONFIGZ))
        waiting = settled.unread("pilot", shown, config)
        if self.pod(names.SYSTEM_NAMESPACE, POLICY) is not None:
            public = {key: digest for key, digest in shown.items() if key.kind not in PRIVATE_KINDS}
            waiting += settled.unread("the policy service", public, json.loads(await self.ask(POLICY, CONFIGZ)))
        if waiting:
            return waiting
        proxies = json.loads(await self.ask(names.CONTROL_PLANE, "/debug/syncz"))
        return settled.untold(config["revision"], self._with_proxy(), proxies)

    def _with_proxy(self) -> list[str]:
        """The pods with a proxy that runs and goes on running, as pilot calls them."""
        return [
            f"{name}.{namespace}"
            for (namespace, name), pod in self._pods.items()
            if not pod.runner.terminating
            and any(container.name in PROXIES and container.pid for container in pod.runner.status().lasting)
        ]

    def objects(self) -> list[Mapping[str, Any]]:
        """Everything that was applied and everything that is observed, as Kubernetes objects; of Secrets the keys."""
        observed = list(self._publisher.observed.values())
        seen = {_identity(document) for document in observed}
        rows = self.rows()
        applied = [redacted(observe.with_ways_in(item.raw, rows)) for item in self.store.items.values()]
        return [*(document for document in applied if _identity(document) not in seen), *observed]

    def pod(self, namespace: str, name: str) -> PodRunner | None:
        """A pod that there is."""
        running = self._pods.get((namespace, name))
        return running.runner if running else None

    async def ask(self, pod: str, path: str, method: str = "GET") -> bytes:
        """What one of the mesh's own pods (of `pymesh-system`) answers on its HTTP port.

        Raises:
            AbsentError: the mesh runs without that pod.
            MeshError: it does not answer, or not with success.
        """
        runner = self.pod(names.SYSTEM_NAMESPACE, pod)
        if runner is None:
            raise AbsentError(f"this mesh runs without {pod} (pymesh up starts it, unless --without leaves it out)")
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                here = ("127.0.0.1", names.PORT_PILOT_HTTP)
                answer = await http.fetch(runner.connect(), here, path, limit=MAX_ANSWER, method=method)
        except (OSError, TimeoutError) as error:
            why = str(error) or f"no answer within {ASK_TIMEOUT:g} s"
            raise MeshError(f"{pod} does not answer: {why}; pymesh logs {pod} may say why") from None
        if answer.status != 200:
            text = answer.body[:MAX_REASON].decode(errors="replace").strip()
            raise MeshError(f"{pod} answers {answer.status} to {path}: {text}")
        if len(answer.body) >= MAX_ANSWER:
            raise MeshError(f"{pod} answers with more than {MAX_ANSWER // 2**20} MiB to {path}: ask for less")
        return answer.body

    # --- the loop ------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Make the network, and answer DNS in it. The network and the files are the caller's to remove.

        Raises:
            MeshError: the network cannot be made.
        """
        await self._network.create()
        await self._publisher.start()

    async def serve(self) -> None:
        """Run the mesh until `stop` is set, then end its pods."""
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            loop = group.create_task(self._keep_up())
            await self.stop.wait()
            loop.cancel()
            await asyncio.gather(*(pod.runner.stop(MESH_GRACE) for pod in self._pods.values()))
            for pod in self._pods.values():
                pod.task.cancel()
        await self._publisher.stop()

    async def _keep_up(self) -> None:
        while True:
            self._changed.clear()
            self._carried_out = False
            try:
                self._publish_root()
                self._act()
                await self._publisher.publish(Seen(pod.runner, pod.manifest) for pod in self._pods.values())
                self._carried_out = True
            except MeshError as error:
                log.error("%s", error)
                self._changed.set()
                await asyncio.sleep(1)
            await asyncio.sleep(ROUND)
            # The root certificate is a file that the control plane writes; it announces itself to nobody.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._root_file().exists() else 0.2):
                    await self._changed.wait()

    def _act(self) -> None:
        existing = [
            reconcile.Existing(*pod_id, pod.owner, pod.template_hash, pod.runner.status().ready, pod.runner.terminating)
            for pod_id, pod in self._pods.items()
        ]
        wanted = self._wanted()
        hashes = {(want.namespace, want.name): want.template_hash for want in wanted}
        self._blocked.clear()
        self._host_ports.keep({*hashes, *((namespace, pod.owner) for (namespace, _), pod in self._pods.items())})
        for action in reconcile.plan(wanted, existing):
            if isinstance(action, reconcile.Delete):
                self._end(self._pods[action.namespace, action.name])
                continue
            try:
                self._begin(action, hashes[action.namespace, action.owner])
            except ConfigError as error:
                self._blocked[action.namespace, action.name] = (action.owner, str(error))

    def _wanted(self) -> list[reconcile.Wanted]:
        result = []
        for applied in (*self.store.of_kind("Deployment"), *self.store.of_kind("Pod")):
            key, workload = applied.resource.key, applied.workload
            if isinstance(workload, podspec.Deployment):
                spec = workload.spec
                digest = reconcile.template_hash(applied.raw["spec"]["template"], str(applied.directory))
                result.append(reconcile.Wanted(key.namespace, key.name, spec.replicas, digest, spec.strategy))
            else:
                digest = reconcile.template_hash(applied.raw, str(applied.directory))
                result.append(
                    reconcile.Wanted(key.namespace, key.name, 1, digest, podspec.Strategy(), pod_name=key.name)
                )
        return result

    def _begin(self, action: reconcile.Create, template_hash: str) -> None:
        """Make a pod and have it run.

        Raises:
            ConfigError: something that it needs does not exist.
        """
        applied = self.store.items.get(Key("Deployment", action.namespace, action.owner))
        is_deployment = applied is not None
        if applied is None:
            applied = self.store.items[Key("Pod", action.namespace, action.owner)]
        source = applied.raw["spec"]["template"] if is_deployment else applied.raw
        metadata = {**source.get("metadata", {}), "name": action.name, "namespace": action.namespace}
        if is_deployment:
            metadata["labels"] = {**metadata.get("labels", {}), "pod-template-hash": template_hash}
        written = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": source["spec"]}
        manifest = inject(
            written,
            config=self._injection,
            namespace_labels=self.store.namespace_labels().get(action.namespace, {}),
            workload=action.owner,
        )
        pod = podcheck.read(podspec.Pod, manifest)
        if isinstance(pod, list):
            raise pod[0]
        if manifest is written:
            podcheck.refuse_sidecars_user(pod.spec, action.namespace)
        account = pod.spec.service_account_name
        if account != "default" and Key("ServiceAccount", action.namespace, account) not in self.store.items:
            raise ConfigError(f"ServiceAccount {action.namespace}/{account} does not exist: apply it")
        self._host_ports.take((action.namespace, action.owner), pod.spec)
        facts = PodFacts(
            name=action.name,
            namespace=action.namespace,
            uid=str(uuid.uuid4()),
            service_account=account,
            ip=self._addresses.take({running.runner.facts.ip for running in self._pods.values()}),
            labels=manifest["metadata"].get("labels") or {},
            annotations=manifest["metadata"].get("annotations") or {},
        )
        manifest["metadata"]["uid"] = facts.uid
        if action.owner != action.name:
            # In a cluster a ReplicaSet stands between the two; here a Deployment makes its pods itself.
            owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": action.owner, "controller": True}
            manifest["metadata"]["ownerReferences"] = [owner]
        runner = PodRunner(facts, pod.spec, applied.directory, self._around, self._changed.set)
        assert self._tasks is not None
        task = self._tasks.create_task(self._run(runner))
        self._pods[action.namespace, action.name] = Running(runner, action.owner, template_hash, manifest, task)

    async def _run(self, runner: PodRunner) -> None:
        try:
            await runner.run()
            # One that has done its work stays to be seen, until it is deleted.
            await asyncio.Event().wait()
        except Exception:  # one pod's trouble must not be the whole mesh's
            log.exception("pod %s/%s cannot be run", runner.facts.namespace, runner.facts.name)
            await asyncio.sleep(MISHAP_PAUSE)
        finally:
            await runner.clean()
            del self._pods[runner.facts.namespace, runner.facts.name]
            self._changed.set()

    def _end(self, pod: Running) -> None:
        if pod.runner.terminating:
            return
        pod.runner.terminating = True
        assert self._tasks is not None

        async def end() -> None:
            await pod.runner.stop()
            pod.task.cancel()

        self._tasks.create_task(end())
        self._changed.set()

    # --- the root certificate, which the control plane writes ---------------------------------------------------

    def _root_file(self) -> Path:
        return self.state.shared / names.ROOT_FILE

    def _publish_root(self) -> None:
        """Read the root certificate that citadel has written; every namespace has it as a ConfigMap."""
        with contextlib.suppress(FileNotFoundError):
            self.root = self._root_file().read_text()

    def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap; the mesh's root certificate is in every namespace."""
        if name == names.ROOT_CONFIG_MAP:
            self._publish_root()  # citadel writes it anew while a root is replaced; volumes are looked at now and then
            return {names.ROOT_FILE: self.root} if self.root else None
        return self.store.config_map(namespace, name)


def _identity(document: Mapping[str, Any]) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]
