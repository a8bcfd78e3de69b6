"""A site of its own: a local mesh, in which a request takes the whole way. Needs root."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any, Final

from benchmarks.macro import procfs
from benchmarks.macro.machine import Cores
from benchmarks.macro.proxies import PYMESH, Proxy
from benchmarks.macro.scenario import Contender, Scenario, Site
from pymesh.errors import MeshError
from pymesh_controlplane.cli import manifests
from pymesh_controlplane.cli.mesh import LocalMesh

_MESH: Final = "benchmacro"
_NAMESPACE: Final = "bench"
_APP: Final = "reviews"
# Port of the ingress gateway's pod.
_HTTP: Final = 8080
_WITHOUT: Final = ("egress",)
# Who has a part in a request, by pod and container. What they cost is the contender's; the app is the upstream.
_SIDECAR: Final = "pymesh-proxy"
PARTS: Final = {
    "ingress": ("ingressgateway", _SIDECAR),
    "sidecar": (_APP, _SIDECAR),
    "policy": ("policy", "policy"),
    "telemetry": ("telemetry", "telemetry"),
}


@contextmanager
def local_mesh(scenario: Scenario, proxies: Sequence[Proxy], folder: Path, cores: Cores) -> Iterator[Site]:
    """The mesh, with the ingress gateway's port of this machine as the place where the load goes.

    Raises:
        MeshError: it cannot run here, or does not start.
    """
    if PYMESH not in {proxy.name for proxy in proxies}:
        raise MeshError(f"a mesh is made of {PYMESH}, which is not among the proxies to measure")
    values = {"BODY": scenario.body, "HOST": dict(scenario.request.headers)["Host"].partition(":")[0]}
    file = folder / "mesh.yaml"
    file.write_text(Template((scenario.folder / "mesh.yaml").read_text()).substitute(values))
    mesh = LocalMesh(_MESH)
    mesh.down()  # what a killed run has left
    mesh.start(manifests.read([str(file)]), without=_WITHOUT)
    try:
        mesh.wait(lambda _: None)
        rows = mesh.rows()
        pids = {part: _pid(rows, pod, container) for part, (pod, container) in PARTS.items()}
        app = _pid(rows, _APP, "app")
        for pid in pids.values():
            _pin(pid, cores.proxy)
        _pin(app, cores.load)
        yield Site({PYMESH: Contender(PYMESH, _way_in(rows), pids, lambda: "")}, (app,))
    finally:
        mesh.down()


def _pid(rows: Sequence[dict[str, Any]], pod: str, container: str) -> int:
    for row in rows:
        if pod in {row["name"], row["owner"]} and container in row["pids"]:
            found: int = row["pids"][container]
            return found
    there = ", ".join(f"{row['owner'] or row['name']}/{name}" for row in rows for name in row["pids"])
    raise MeshError(f"the mesh has no {pod}/{container}; it has {there}")


def _way_in(rows: Sequence[dict[str, Any]]) -> int:
    """The port of this machine that leads to the ingress gateway."""
    for row in rows:
        for address, port in row["host_ports"].items():
            if port == _HTTP:
                return int(address.rpartition(":")[2])
    raise MeshError("the mesh has no ingress gateway that this machine reaches")


def _pin(root: int, cores: frozenset[int]) -> None:
    """Keep a process, its children and all their threads on these processors."""
    for pid in procfs.family(root, procfs.processes()):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
