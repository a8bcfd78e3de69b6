"""The supervisor's process. `pymesh up` starts it; nobody else needs to.

It runs until SIGTERM or SIGINT, then removes everything that it made, its state directory included. When it fails to
start, it leaves the directory, and in it the log that says why, to whoever started it.
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from logging.handlers import RotatingFileHandler

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local import api, gateways, network, programs, state, system
from pymesh_controlplane.local.host_ports import HostPorts
from pymesh_controlplane.local.logs import MAX_LOG
from pymesh_controlplane.local.network import Network
from pymesh_controlplane.local.state import State
from pymesh_controlplane.local.supervisor import Supervisor
from pymesh_controlplane.local.texts import Text
from pymesh_controlplane.local.tokens import TokenSigner


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the supervisor of one mesh; the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m pymesh_controlplane.local", description=__doc__)
    parser.add_argument("--mesh", required=True, help="name of the mesh; its state directory exists")
    parser.add_argument("--components", required=True, help="components of the control plane, separated by commas")
    given = parser.parse_args(arguments)
    place = state.named(given.mesh)
    handler = RotatingFileHandler(place.log, maxBytes=MAX_LOG, backupCount=1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    os.umask(0o022)
    failed = False
    try:
        asyncio.run(_run(place, given.components.split(",")))
    except* (MeshError, OSError) as group:
        failed = True
        for error in _leaves(group):
            sys.stderr.write(f"pymesh: {error}\n")
    finally:
        network.remove_namespaces(given.mesh)
    if not failed:
        shutil.rmtree(place.root, ignore_errors=True)
    return int(failed)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _run(place: State, components: list[str]) -> None:
    state.claim(place)
    # The control plane runs as the sidecars' user, and these directories are its own.
    private = [place.citadel, place.secrets, *(place.last_good(part) for part in ("pilot", "policy"))]
    for path in private:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    for path in (*private, place.shared):
        os.chown(path, names.PROXY_UID, names.PROXY_UID)
    host_ports, injection = HostPorts(), InjectionConfig()
    signer = TokenSigner.load_or_create(place.tokens)
    supervisor = Supervisor(
        place,
        Network(place.mesh),
        signer,
        programs.find(),
        injection,
        host_ports=host_ports,
        has_pilot="pilot" in components,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.stop.set)
    documents = [*system.manifests(place, components), *_gateways(components, host_ports, injection)]
    own = Text("the control plane's manifests", "/", json.dumps(_list(documents)))
    supervisor.apply(supervisor.store.read([own], names.SYSTEM_NAMESPACE)[0])
    # Whoever waits for the socket to appear then knows that the network is there.
    await supervisor.prepare()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(place.socket))
        listener.listen()
        server = api.Server(api.application(supervisor), listener)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve_until_told())
            try:
                await supervisor.serve()
            finally:
                server.should_exit = True


def _gateways(
    components: Sequence[str], host_ports: HostPorts, injection: InjectionConfig
) -> Iterator[system.Document]:
    """The manifests of the gateways, with the machine's ports that could be had for the ingress gateway."""
    for part in components:
        if part in gateways.GATEWAYS:
            owner = (names.SYSTEM_NAMESPACE, gateways.GATEWAYS[part])
            wanted = gateways.HOST_PORTS if part == gateways.INGRESS else ()
            opened = {port: host_ports.reserve(owner, gateways.HOST_ADDRESS, port) for port in wanted}
            yield from gateways.manifests(part, opened, injection)


def _list(items: list[system.Document]) -> system.Document:
    return {"apiVersion": "v1", "kind": "List", "items": items}


if __name__ == "__main__":
    sys.exit(main())
