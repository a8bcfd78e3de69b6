"""Agent mode: certificates by SDS and a bootstrap file, for a pod whose proxy is a real Envoy.

    pymesh-proxy --agent --discovery pilot.pymesh-system.svc:15012 --envoy-bootstrap FILE [-- envoy -c FILE …]

The agent obtains the workload's certificate, serves it on the SDS socket, and writes a bootstrap with which Envoy takes
its configuration from pilot and its secrets from the agent. With a command line it also runs Envoy, once the first
certificate is there, passes signals on, and ends with it.
"""

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pymesh.errors import ConfigError
from pymesh.names import ROOT_CERT_PATH, SDS_SOCKET_PATH, SDS_WORKLOAD, TOKEN_PATH
from pymesh_proxy.control.certificates import CertificateClient
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.envoy_bootstrap import envoy_bootstrap
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.roots import RootsClient, TrustedRoots
from pymesh_proxy.control.sds import SdsServer
from pymesh_proxy.control.secrets import SecretStore
from pymesh_proxy.control.target import Target, bearer_token

log = logging.getLogger(__name__)

# Seconds that Envoy has to finish what is in flight after SIGTERM; Istio's terminationDrainDuration.
STOP_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What `pymesh-proxy --agent` was asked to do.

    Attributes:
        node: who the pod is; `user_agent` "envoy".
        discovery: pilot and citadel, with TLS.
        bootstrap: where to write Envoy's bootstrap.
        envoy: command line of the Envoy to run and supervise; empty runs none.
        sds_mode: permissions of the socket: 0o660 where Envoy runs under another user of the same group.
        admin_port: of Envoy's admin, on loopback.
    """

    node: Node
    discovery: Target
    bootstrap: Path
    envoy: Sequence[str] = ()
    sds_socket: Path = Path(SDS_SOCKET_PATH)
    sds_mode: int = 0o600
    token_file: Path = Path(TOKEN_PATH)
    roots_file: Path = Path(ROOT_CERT_PATH)
    admin_port: int = 15000


async def run_agent(options: AgentOptions) -> int:
    """Serve certificates until SIGTERM or SIGINT, or until Envoy ends: the exit status of the process.

    Raises:
        ConfigError: the discovery address has no TLS, or a file or the socket cannot be made.
    """
    if options.discovery.tls is None:
        raise ConfigError("certificates are asked for over TLS only: use citadel's TLS port, 15012", path="--discovery")
    try:
        options.bootstrap.write_text(
            envoy_bootstrap(options.node, options.discovery, options.sds_socket, options.admin_port), encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"cannot write Envoy's bootstrap: {error}", path="--envoy-bootstrap") from error
    store = SecretStore()
    roots = TrustedRoots(store, options.roots_file)
    discovery = replace(options.discovery, tls=replace(options.discovery.tls, more=roots.pushed))
    channel = Channel(discovery, metadata=bearer_token(options.token_file))
    rng = random.Random()  # noqa: S311  spreads retries, guards nothing
    client = CertificateClient(channel, options.node, store, roots=roots, rng=rng, clock=time.time)
    following = RootsClient(channel, options.node, store, roots, rng=rng)
    server = SdsServer(store, options.sds_socket, mode=options.sds_mode)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with asyncio.TaskGroup() as group:
            services = [group.create_task(part.run()) for part in (client, following, server)]
            ends = [group.create_task(_signalled(stop))]
            if options.envoy:
                ends.append(group.create_task(_run_envoy(options.envoy, store)))
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in (*services, *ends):
                task.cancel()
        return max(task.result() for task in done)
    except ExceptionGroup as errors:
        if (unusable := errors.subgroup(OSError)) is not None:
            raise ConfigError(f"the agent cannot work: {_innermost(unusable)}") from errors
        raise
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await channel.close()


async def _signalled(stop: asyncio.Event) -> int:
    await stop.wait()
    return 0


async def _run_envoy(command: Sequence[str], store: SecretStore) -> int:
    """Run Envoy as soon as there is a certificate: its exit status, never 0, since it should not end by itself.

    Cancelled, it lets Envoy finish what is in flight.
    """
    await _certificate(store)
    envoy = await asyncio.create_subprocess_exec(*command)
    log.info("Envoy runs, pid %d", envoy.pid)
    try:
        status = await envoy.wait()
        log.error("Envoy has ended by itself, status %d", status)
        return status if status > 0 else 1
    finally:
        if envoy.returncode is None:
            envoy.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await envoy.wait()
        if envoy.returncode is None:
            envoy.kill()
            await envoy.wait()


async def _certificate(store: SecretStore) -> None:
    """Wait for the first certificate."""
    changed = asyncio.Event()
    unsubscribe = store.subscribe(lambda _name: changed.set())
    try:
        while store.get(SDS_WORKLOAD) is None:
            changed.clear()
            await changed.wait()
    finally:
        unsubscribe()


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
