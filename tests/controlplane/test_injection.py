"""The nodes of a cluster, of which the oldest says how pods are injected."""

import asyncio

from lightkube import AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Node, NodeStatus

from pymesh_controlplane.injection import Injection
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.metrics import Metrics
from tests.support.waiting import eventually

REQUIRED = (
    "machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeProxyVersion",
    "operatingSystem", "architecture",
)  # fmt: skip


async def join(client: AsyncClient, name: str, kubelet: str) -> None:
    """A node is there, whose kubelet registers itself a moment later."""
    await client.create(Node(metadata=ObjectMeta(name=name)))
    await upgrade(client, name, kubelet)


async def upgrade(client: AsyncClient, name: str, kubelet: str) -> None:
    """The node has this kubelet from now on."""
    info = dict.fromkeys(REQUIRED, "x") | {"kubeletVersion": kubelet}
    await client.patch(NodeStatus, name, {"status": {"nodeInfo": info}})


async def test_the_oldest_kubelet_counts_as_nodes_come_and_go(client: AsyncClient) -> None:
    await join(client, "new", "v1.30.1")
    injection = Injection(
        client, {"major": "1", "minor": "30"}, InjectionConfig(cluster_id="west", native_sidecars=False), Metrics()
    )
    assert injection.waiting() == "waiting for nodes of the Kubernetes API"
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(injection.run())
        await injection.listed()
        assert injection.waiting() == ""
        assert injection() == InjectionConfig(cluster_id="west", native_sidecars=True)
        await join(client, "old", "v1.27.16")
        await eventually(lambda: not injection().native_sidecars)
        await upgrade(client, "old", "v1.29.0")
        await eventually(lambda: injection().native_sidecars)
        await upgrade(client, "old", "v1.28.0")
        await eventually(lambda: not injection().native_sidecars)
        await client.delete(Node, "old")
        await eventually(lambda: injection().native_sidecars)
        following.cancel()
