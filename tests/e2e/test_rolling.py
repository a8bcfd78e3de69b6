"""Everything is replaced, one after the other, under a steady load from outside: no request is lost."""

import asyncio
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pymesh import names
from pymesh_controlplane.injector.containers import InjectionConfig, gateway_pod
from tests.support.mesh import PYMESH, Mesh
from tests.support.proxy_process import free_port
from tests.support.steady_load import SteadyLoad
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]

MANIFESTS = Path(__file__).parent / "manifests"
PATIENCE = 60.0
# Seconds that an app goes on serving when its end has begun: until its callers know that there are others. That is
# Kubernetes' usual means, for an app that stops listening at once is asked until word has got around.
NOTICE = 3
# Requests a second, for each kind of client; and at least as many of each kind before and after a change.
RATE = 10
AROUND = 20


def deployment(name: str, pod: dict[str, Any], *, labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": labels}, "spec": pod}
    body = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": body}


def app(name: str, version: str, *upstream: str, surge: int = 1) -> dict[str, Any]:
    """A Deployment of `steady.py`, with probes that a STRICT pod would refuse a kubelet."""
    container = {
        "name": "app",
        "command": ["python3", "steady.py", version, *upstream],
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/alive", "port": "web"}, "periodSeconds": 1, "timeoutSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"sleep": {"seconds": NOTICE}}},
    }
    rolling = {"maxSurge": surge, "maxUnavailable": 1 - surge}
    return deployment(name, {"containers": [container]}, labels={"app": name}, strategy={"rollingUpdate": rolling})


def edge(port: int) -> dict[str, Any]:
    """A gateway of two pods behind one port of the machine."""
    ports = [{"name": "http2", "containerPort": 8080, "hostPort": port}]
    pod = {"serviceAccountName": "edge", **gateway_pod(InjectionConfig(), "edge", ports)}
    made = deployment("edge", pod, labels={"istio": "edge", "app": "edge", "sidecar.istio.io/inject": "false"})
    made["metadata"]["namespace"] = names.SYSTEM_NAMESPACE
    return made


class World:
    """The mesh, and the load on it."""

    def __init__(self, mesh: Mesh, port: int, folder: Path) -> None:
        self.mesh = mesh
        self.folder = folder
        self.port = port

    def apply(self, document: dict[str, Any]) -> None:
        """Put a manifest in force, from the folder that its containers work in."""
        path = self.folder / f"{document['metadata']['name']}.yaml"
        path.write_text(json.dumps(document))
        self.mesh.run("apply", "-f", str(path))

    def restart(self, *arguments: str) -> None:
        """`pymesh rollout restart`."""
        command = [PYMESH, "rollout", "restart", "--mesh", self.mesh.name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.stdout == f"deployment.apps/{arguments[0].partition('/')[2]} restarted\n", done.stderr

    def pods(self, owner: str) -> set[str]:
        """Names of the pods of a Deployment."""
        return {row["name"] for row in self.mesh.pods() if row["owner"] == owner}

    def replaced(self, owner: str, old: set[str]) -> None:
        """Wait until all pods of `owner` are other ones, and ready."""

        def done() -> bool:
            rows = [row for row in self.mesh.pods() if row["owner"] == owner]
            return len(rows) == len(old) and all(row["is_ready"] and row["name"] not in old for row in rows)

        eventually_sync(done, timeout=PATIENCE, what=f"new pods of {owner}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rolling")


@pytest.fixture(scope="module")
def world(folder: Path) -> Iterator[World]:
    (folder / "steady.py").write_text((MANIFESTS / "steady.py").read_text())
    (folder / "rolling.yaml").write_text((MANIFESTS / "rolling.yaml").read_text())
    port = free_port()
    for document in (app("front", "front1", "back"), app("back", "back1"), edge(port)):
        (folder / f"{document['metadata']['name']}.yaml").write_text(json.dumps(document))
    with Mesh("rolling", folder, without="policy,telemetry,ingress,egress") as mesh:
        yield World(mesh, port, folder)


@contextmanager
def load(world: World) -> Iterator[None]:
    """A steady load for as long as the block runs: every one of its requests has been answered with success."""
    steady = SteadyLoad(("127.0.0.1", world.port), RATE)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, steady.run())
        try:
            eventually_sync(lambda: steady.served() > AROUND, timeout=PATIENCE, what="the load to flow")
            yield
            served = steady.served()
            eventually_sync(lambda: steady.served() > served + AROUND, timeout=PATIENCE, what="the load to flow on")
        finally:
            steady.ending = True
            running.result(PATIENCE)
    assert steady.lost == Counter(), f"{sum(steady.lost.values())} lost of {sum(steady.answered.values())}"


def test_updates_of_apps_and_sidecars(world: World) -> None:
    """One app gets a new version, with one pod more meanwhile; the other another kind of sidecar, with one pod less."""
    changed = app("front", "front1", "back", surge=0)
    wishes = {"sidecar.istio.io/logLevel": "debug", "sidecar.istio.io/nativeSidecar": "false"}
    changed["spec"]["template"]["metadata"]["annotations"] = wishes
    old = {name: world.pods(name) for name in ("back", "front")}
    with load(world):
        world.apply(app("back", "back2"))
        world.apply(changed)
        for name, pods in old.items():
            world.replaced(name, pods)


def test_a_restart_of_pilot_and_citadel(world: World) -> None:
    old = {name: world.pods(name) for name in ("back", "front")}
    with load(world):
        before = world.mesh.pod("pymesh-controlplane")
        os.kill(before["pids"]["pymesh-controlplane"], signal.SIGTERM)
        eventually_sync(
            lambda: (now := world.mesh.pod("pymesh-controlplane"))["restarts"] > before["restarts"] and now["is_ready"],
            timeout=PATIENCE,
            what="the control plane to be back",
        )
        # And what is new reaches everybody again.
        for name in old:
            world.restart(f"deployment/{name}")
        for name, pods in old.items():
            world.replaced(name, pods)


def test_a_rolling_restart_of_the_gateway(world: World) -> None:
    old = world.pods("edge")
    with load(world):
        world.restart("deployment/edge", "-n", names.SYSTEM_NAMESPACE)
        world.replaced("edge", old)
