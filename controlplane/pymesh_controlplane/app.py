"""The control plane's composition: how it starts and ends, and what runs on one machine. `cluster` has the other."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from pymesh.errors import ConfigError, MeshError, Position
from pymesh.resources.kubernetes import Pod
from pymesh.resources.resource import Key, holds
from pymesh_controlplane import files, parts
from pymesh_controlplane.citadel.attestation import AttestationUnavailableError, TokenVerifier
from pymesh_controlplane.citadel.custodian import SETTLE_ON_ONE_MACHINE, Custodian
from pymesh_controlplane.citadel.store import FileStore
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.options import Options
from pymesh_controlplane.pilot.server import DiscoveryServer
from pymesh_controlplane.ports import Ports
from pymesh_controlplane.running import Running, time_of_day
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.sources.directory import DirectorySource
from pymesh_controlplane.sources.last_good import LastGood

log = logging.getLogger("pymesh.controlplane")

# Seconds that a thread keeps the interpreter while the event loop wants it. Files are parsed and proxies translated for
# in threads; with Python's 5 ms an answer that takes a few turns of the loop waits a third of a second for them.
SWITCH_INTERVAL: Final = 0.001
# Objects made and not freed before the collector looks at the young ones; at all of them it looks after a hundred times
# as many. With Python's 700 it would look at a thousand services anew, 80 ms long, for nearly every change of one.
GC_THRESHOLD: Final = 10_000


async def run(options: Options, *, serving_now: Callable[[Ports], None]) -> None:
    """Run the components until SIGTERM or SIGINT.

    Args:
        options: what was asked for.
        serving_now: called once, when every port is open.

    Raises:
        ConfigError: a port, a folder, a file or a Secret cannot be used.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(GC_THRESHOLD)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with contextlib.AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
            running = Running(options, tasks, resources)

            async def start() -> None:
                await (start_in_a_cluster if options.kubernetes else start_on_one_machine)(options, running)
                running.complete()
                serving_now(running.ports)

            running.start(start())
            await stop.wait()
            log.info("ending")
            running.end()
    except BaseExceptionGroup as group:
        told = group.subgroup(MeshError)
        if told is None:
            raise
        first = _first_of(told)
        _log_others(group, first)
        raise first from None


async def start_in_a_cluster(options: Options, running: Running) -> None:
    """See `cluster.start`. The client of the Kubernetes API takes 7 MB and 0.3 s: on one machine it is not loaded."""
    from pymesh_controlplane import cluster

    await cluster.start(options, running)


async def start_on_one_machine(options: Options, running: Running) -> None:
    """Everything from files: the world from a folder of YAML, the CA and the keys of tokens from others."""
    source = _directory(options)
    shared = None if source is None else running.follow(source)
    pilot = running.pilot(shared) if "pilot" in options.components and shared is not None else None
    on_mesh_port = parts.chosen(options.components, shared, parts.store(options))
    running.pages(pilot, on_mesh_port)
    trust = None
    if "citadel" in options.components:
        custodian, tokens = await _citadel(options, running, pilot)
        trust = custodian.trust
        await running.tls_port(custodian, tokens, pilot)
    if pilot is not None:
        await running.plain_port(pilot, options.listen)
    if on_mesh_port:
        running.mesh_port(on_mesh_port, trust)


def _directory(options: Options) -> Source | None:
    """Where the world of pilot and policy comes from; None if neither runs here.

    Raises:
        ConfigError: the folder cannot be read.
    """
    if options.components.isdisjoint({"pilot", "policy"}) or options.config_dir is None:
        return None
    _check_readable(options.config_dir)
    last_good = None
    if options.state_dir is not None:
        _check_readable(options.state_dir)
        last_good = LastGood(options.state_dir, options.config_dir)
    return DirectorySource(options.config_dir, trust_domain=options.trust_domain, last_good=last_good)


def _check_readable(folder: Path) -> None:
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", position=Position(str(folder))) from error


async def _citadel(
    options: Options, running: Running, pilot: DiscoveryServer | None
) -> tuple[Custodian, TokenVerifier]:
    """The authority, read or made, and who can tell about tokens; the roots are published, also when they change.

    Raises:
        ConfigError: a file or folder cannot be used.
    """
    if options.ca_dir is None or options.jwks is None:
        raise ConfigError("citadel needs --ca-dir and --jwks")
    store = FileStore(options.ca_dir, options.trust_domain)
    stored = await store.read(now=time_of_day())
    custodian = Custodian(store, stored, running.metrics, time_of_day, settle=SETTLE_ON_ONE_MACHINE)
    is_pod = partial(_is_pod, pilot) if options.known_pods_only and pilot is not None else None
    tokens = TokenVerifier(options.jwks, options.trust_domain, running.metrics, is_pod=is_pod)
    if (path := options.root_cert_out) is not None:
        files.publish(path, custodian.trust.authority.root_pem.encode(), 0o644)
        custodian.trust.subscribe(lambda: _publish(path, custodian.trust))
    return custodian, tokens


def _is_pod(pilot: DiscoveryServer, namespace: str, name: str, uid: str) -> bool:
    """Whether this pod is among those that pilot knows. See `attestation.IsPod`."""
    if pilot.world is None:
        raise AttestationUnavailableError("the configuration, and the pods in it, are not read yet: try again")
    found = pilot.world.resources.get(Key("Pod", namespace, name))
    return found is not None and holds(found, Pod) and found.value.metadata.uid == uid


def _publish(path: Path, trust: Trust) -> None:
    try:
        files.publish(path, trust.authority.root_pem.encode(), 0o644)
    except ConfigError as error:
        log.error("the mesh's roots have changed, and pods that start get the former ones: %s", error)


def _first_of(group: BaseExceptionGroup[MeshError]) -> MeshError:
    """One error of a group, to be told as the reason."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _log_others(group: BaseExceptionGroup[BaseException], told: MeshError) -> None:
    """Log what a group has besides `told`, which is the one that its reader gets to see."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _log_others(error, told)
        elif isinstance(error, MeshError) and error is not told:
            log.error("and: %s", error)
        elif error is not told:
            log.error("and a mistake in pymesh", exc_info=error)
