"""One pod: its network, volumes and containers, from nothing to running, and back to nothing."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh.errors import MeshError
from pymesh_controlplane.local import environment, volumes
from pymesh_controlplane.local.containers import ContainerRunner, Policy
from pymesh_controlplane.local.downward import PodFacts
from pymesh_controlplane.local.host_ports import HostPorts
from pymesh_controlplane.local.launch import Launch
from pymesh_controlplane.local.logs import ContainerLog
from pymesh_controlplane.local.network import DNS_ADDRESS, NAMESPACES, Network, pod_namespace
from pymesh_controlplane.local.podspec import Container, PodSpec
from pymesh_controlplane.local.probes import Target
from pymesh_controlplane.local.rootfs import Mount
from pymesh_controlplane.local.status import PodStatus, summarise
from pymesh_controlplane.local.tokens import Subject, TokenSigner, renewal_time

# Seconds between two looks whether what a pod waits for has come.
WAIT_PERIOD: Final = 0.2
# Seconds before a network that could not be made is tried again.
NETWORK_BACKOFF: Final = 2.0
# Seconds between two looks at the content of volumes; the shortest token lives 600 s and is renewed after 480.
REFRESH_PERIOD: Final = 30.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the pods of a mesh have in common.

    Attributes:
        mesh: its name.
        pods_dir: `pods/` of the state; a pod's own is `<namespace>/<name>` below.
        staging: an empty directory, on which containers build their roots.
        network: of the mesh.
        signer: of tokens.
        config_map: data of a ConfigMap by namespace and name, None if there is none.
        host_ports: of the machine, for the containers that have some.
        required: paths that every container must be able to enter: the interpreter and the package.
        path: PATH of the containers.
    """

    mesh: str
    pods_dir: Path
    staging: Path
    network: Network
    signer: TokenSigner
    config_map: Callable[[str, str], Mapping[str, str] | None]
    host_ports: HostPorts
    required: tuple[str, ...]
    path: str


class PodRunner:
    """Runs one pod as long as `run` runs.

    Args:
        facts: name, namespace, address, …
        spec: what to run, with the sidecar where it has one.
        directory: of the manifest, the working directory of its containers: it stands for their image's.
        around: what the pods have in common.
        changed: is called after every change of `status()`.
    """

    def __init__(
        self, facts: PodFacts, spec: PodSpec, directory: Path, around: Surroundings, changed: Callable[[], None]
    ) -> None:
        self.facts = facts
        self.spec = spec
        self.created = time.time()
        self.terminating = False
        self._directory = directory
        self._around = around
        self._changed = changed
        self._home = around.pods_dir / facts.namespace / facts.name
        self._netns = NAMESPACES / pod_namespace(around.mesh, facts.namespace, facts.name)
        self._waiting_for = ""
        self._volumes = {volume.name: volume for volume in spec.volumes}
        self._tokens: dict[tuple[str, int], tuple[str, float]] = {}
        self._logs: list[ContainerLog] = []
        policy = spec.restart_policy
        init_policy: Policy = "Never" if policy == "Never" else "OnFailure"
        self._make_files()
        self.init_containers = [self._runner(c, c.restart_policy or init_policy) for c in spec.init_containers]
        self.containers = [self._runner(c, policy) for c in spec.containers]

    def status(self) -> PodStatus:
        """How it is now."""
        return summarise(
            tuple(runner.status for runner in self.init_containers),
            tuple(runner.status for runner in self.containers),
            tuple(container.restart_policy is not None for container in self.spec.init_containers),
            self._waiting_for,
            self.terminating,
        )

    async def run(self) -> None:
        """Have it run until it has done its work, or `stop` or a cancellation ends it. Always followed by `clean`."""
        await self._until_there_is_a_network()
        await self._until_volumes_are_filled()
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._keep_volumes_fresh())
            if await self._initialise(group):
                mains = []
                for runner in self.containers:
                    mains.append(group.create_task(runner.run()))
                    await runner.has_begun.wait()
                await asyncio.wait(mains)
            if not self.terminating:
                # Native sidecars end after the containers they were there for, whether those have begun or not.
                await self._stop_all(self.spec.termination_grace_period_seconds)
            renewing.cancel()

    async def _initialise(self, group: asyncio.TaskGroup) -> bool:
        """Run the init containers, in order; whether all have done what they were there for."""
        for runner in self.init_containers:
            task = group.create_task(runner.run())
            if runner.spec.restart_policy is not None:
                await runner.has_started.wait()
                continue
            await task
            if runner.status.exit_code != 0:
                return False
        return not self.terminating

    async def stop(self, grace: float | None = None) -> None:
        """End all containers, with `grace` seconds (by default the pod's own) to finish."""
        self.terminating = True
        self._changed()
        await self._stop_all(self.spec.termination_grace_period_seconds if grace is None else grace)

    async def _stop_all(self, grace: float) -> None:
        """All hooks begin now; a native sidecar is told to end after the containers that came after it have."""
        natives = [runner for runner in self.init_containers if runner.spec.restart_policy is not None]
        others = [runner for runner in self.init_containers if runner.spec.restart_policy is None]
        later = {runner.spec.name: (*natives[index + 1 :], *self.containers) for index, runner in enumerate(natives)}
        await asyncio.gather(
            *(runner.stop(grace) for runner in (*others, *self.containers)),
            *(runner.stop(grace, after=later[runner.spec.name]) for runner in natives),
        )

    async def clean(self) -> None:
        """Remove the network and the files, whatever state they are in."""
        await self._around.network.remove_pod(self.facts.namespace, self.facts.name, self.facts.ip)
        for container_log in self._logs:
            container_log.close()
        await asyncio.to_thread(volumes.remove, self._home)

    def log_path(self, container: str) -> Path:
        """Where the output of `container` is."""
        return self._home / "logs" / f"{container}.log"

    def _make_files(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        namespace = self.facts.namespace
        search = f"{namespace}.svc.cluster.local svc.cluster.local cluster.local"
        resolver = f"search {search}\nnameserver {DNS_ADDRESS}\noptions ndots:5\n"
        hostname = self.spec.hostname or self.facts.name
        hosts = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{self.facts.ip}\t{hostname}\n"
        for name, text in (("resolv.conf", resolver), ("hosts", hosts), ("hostname", f"{hostname}\n")):
            (self._home / name).write_text(text)

    def _runner(self, container: Container, policy: Policy) -> ContainerRunner:
        container_log = ContainerLog(self.log_path(container.name))
        self._logs.append(container_log)
        target = Target(self.facts.ip, lambda: self._around.network.socket(socket.SOCK_STREAM))
        return ContainerRunner(
            container,
            launch=lambda: self._launch(container),
            log=container_log,
            target=target,
            policy=policy,
            changed=self._changed,
        )

    def connect(self) -> socket.socket:
        """A TCP socket in the pod, not connected yet."""
        return self._around.network.socket(socket.SOCK_STREAM, self._netns)

    def _launch(self, container: Container) -> Launch:
        hostname = self.spec.hostname or self.facts.name
        base = {"PATH": self._around.path, "HOME": "/tmp", "HOSTNAME": hostname, "LANG": "C.UTF-8"}  # noqa: S108  private
        env = environment.variables(container, self.facts, self._config_map, base)
        uid, gid = environment.user(container, self.spec.security_context)
        files = [Mount(str(self._home / name), f"/etc/{name}", True) for name in ("resolv.conf", "hosts", "hostname")]
        return Launch(
            argv=environment.command(container, env),
            env=env,
            cwd=container.working_dir or str(self._directory),
            uid=uid,
            gid=gid,
            capabilities=environment.capabilities(container),
            hostname=hostname,
            netns=str(self._netns),
            staging=str(self._around.staging),
            required=(*self._around.required, str(self._directory)),
            sockets=self._around.host_ports.sockets(container),
            mounts=(*files, *volumes.mounts(container, self._volumes, self._home / "volumes")),
        )

    def _config_map(self, name: str) -> Mapping[str, str] | None:
        return self._around.config_map(self.facts.namespace, name)

    async def _until_there_is_a_network(self) -> None:
        while True:
            try:
                await self._around.network.add_pod(self.facts.namespace, self.facts.name, self.facts.ip)
            except MeshError as error:
                self._wait_for(f"network: {error}")
                await self._around.network.remove_pod(self.facts.namespace, self.facts.name, self.facts.ip)
                await asyncio.sleep(NETWORK_BACKOFF)
            else:
                return

    async def _until_volumes_are_filled(self) -> None:
        while True:
            try:
                self._fill_volumes()
            except (MeshError, OSError) as error:
                self._wait_for(str(error))
                await asyncio.sleep(WAIT_PERIOD)
            else:
                self._wait_for("")
                return

    async def _keep_volumes_fresh(self) -> None:
        """Renew tokens in time and follow ConfigMaps. One that has been deleted meanwhile keeps its last content."""
        while True:
            await asyncio.sleep(REFRESH_PERIOD)
            with contextlib.suppress(volumes.NotThereYet):
                self._fill_volumes()

    def _fill_volumes(self) -> None:
        sources = volumes.Sources(self.facts, self._config_map, self._token)
        for name, volume in self._volumes.items():
            volumes.write(volume, self._home / "volumes" / name, sources)

    def _token(self, audience: str, lifetime: int) -> str:
        """The pod's token for `audience`; the same one until it is time for the next."""
        facts, now = self.facts, int(time.time())
        token, renew_at = self._tokens.get((audience, lifetime), ("", 0.0))
        if now >= renew_at:
            subject = Subject(facts.namespace, facts.service_account, facts.name, facts.uid)
            token = self._around.signer.mint(subject, audience, lifetime, now)
            self._tokens[audience, lifetime] = (token, renewal_time(lifetime, now))
        return token

    def _wait_for(self, what: str) -> None:
        if what != self._waiting_for:
            self._waiting_for = what
            self._changed()
