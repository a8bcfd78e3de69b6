"""A network beyond a local mesh: a namespace with hosts of its own, linked to the mesh's as a router would be.

    with Outside(network.mesh_namespace("e2e")) as outside:
        listener = outside.namespace.listen((outside.host(10), 80))

What `pymesh up` makes has no such link. The hosts know the way back to the pods, so that they see which pod calls.
"""

import os
import subprocess
from types import TracebackType
from typing import Self

from pymesh_controlplane.local.network import POD_NETWORK
from tests.support.netns import COMMAND_TIMEOUT, Namespace

LINK = "outside0"
ROUTER = "203.0.113.1"


class Outside:
    """203.0.113.0/24, with hosts at the addresses that `host` gives."""

    def __init__(self, mesh_namespace: str) -> None:
        self._mesh = mesh_namespace
        self.namespace = Namespace(f"pmoutside-{os.getpid()}")

    def __enter__(self) -> Self:
        _run("netns", "add", self.namespace.name)
        try:
            link = f"link add {LINK} netns {self._mesh} type veth peer name eth0 netns {self.namespace.name}"
            _run(*link.split())
            for line in (f"address add {ROUTER}/24 dev {LINK}", f"link set {LINK} up"):
                _run("-n", self._mesh, *line.split())
            for line in ("link set lo up", "link set eth0 up", "address add 203.0.113.2/24 dev eth0"):
                _run("-n", self.namespace.name, *line.split())
            _run("-n", self.namespace.name, *f"route add {POD_NETWORK} via {ROUTER}".split())
        except BaseException:
            self.namespace.delete()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.namespace.delete()

    def host(self, number: int) -> str:
        """The address of a host, from now on."""
        address = f"203.0.113.{number}"
        _run("-n", self.namespace.name, *f"address add {address}/24 dev eth0".split())
        return address


def _run(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
