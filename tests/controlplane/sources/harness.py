"""A cluster, as its administrator changes it, and who follows a source of it, as the control plane does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any

import yaml
from lightkube import AsyncClient, codecs
from lightkube.core.exceptions import ApiError
from lightkube.types import PatchType

from pymesh_controlplane.kube.client import connect
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources.kubernetes import KubernetesSource
from tests.support.kubernetes.server import ApiServer
from tests.support.repository import ROOT
from tests.support.waiting import eventually

WEB = "web.default.svc.cluster.local"
BASE = ROOT / "deploy" / "kubernetes" / "base"
CRDS = (
    *sorted((ROOT / "controlplane" / "pymesh_controlplane" / "crds").glob("*.yaml")),
    BASE / "ratelimits.yaml",
    BASE / "concurrencylimits.yaml",
    BASE / "checks.yaml",
)
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 9080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.9], targetRef: {kind: Pod, namespace: default, name: web-a}}]
"""
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: default}
spec:
  selector: {app: front}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, credentialName: front-cert}}
"""
SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: front-cert, namespace: default}
data: {note: b25l}
"""


def route(destination: str = "web") -> str:
    """A VirtualService that leads from `web` there."""
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: default}}
spec: {{hosts: [web], http: [{{route: [{{destination: {{host: {destination}}}}}]}}]}}
"""


def crd(group: str, kind: str, plural: str, version: str = "v1") -> str:
    """A CRD as far as the API server insists on it."""
    return f"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{kind: {kind}, listKind: {kind}List, plural: {plural}, singular: {kind.lower()}}}
  versions:
  - name: {version}
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""


class Cluster:
    """A cluster, as its administrator changes it."""

    def __init__(self, api: ApiServer, client: AsyncClient) -> None:
        self.api = api
        self.client = client
        self.applied: list[dict[str, Any]] = []

    async def clear(self) -> None:
        """Take away what was applied."""
        for document in reversed(self.applied):
            with suppress(ApiError):
                await self.delete(yaml.safe_dump(document))

    async def apply(self, *texts: str) -> None:
        """Write what `texts` say; the status of pods, too, which kubelet would write."""
        for document in (found for text in texts for found in yaml.safe_load_all(text) if found):
            if document["kind"] == "Pod":
                document["spec"]["serviceAccountName"] = "default"  # the one that there is
                document["spec"]["containers"][0]["image"] = "web"
            self.applied.append(document)
            await eventually(partial(self._apply, document))

    async def _apply(self, document: dict[str, Any]) -> bool:
        made: Any = codecs.from_dict(document)
        name, namespace = document["metadata"]["name"], document["metadata"].get("namespace")
        where = {"namespace": namespace} if namespace else {}
        try:
            await self.client.patch(
                type(made), name, made, patch_type=PatchType.APPLY, field_manager="test", force=True, **where
            )
            if status := document.get("status"):
                await self.client.patch(
                    type(made).Status, name, {"status": status}, patch_type=PatchType.MERGE, **where
                )
        except ApiError as error:
            if error.status.code == 404:  # a CRD is there before its kind is served
                return False
            raise
        return True

    async def delete(self, text: str) -> None:
        """Take away what `text` names, at once."""
        document = yaml.safe_load(text)
        metadata = document["metadata"]
        kind: Any = type(codecs.from_dict(document))
        where = {"namespace": metadata["namespace"]} if "namespace" in metadata else {}
        await self.client.delete(kind, metadata["name"], grace_period=0, **where)


class Follower:
    """Follows a source, as the control plane does."""

    def __init__(self, source: KubernetesSource) -> None:
        self.source = source
        self.worlds: list[World] = []

    @property
    def world(self) -> World:
        assert self.worlds
        return self.worlds[-1]

    def said(self) -> list[str]:
        return [str(problem) for problem in self.world.problems]

    async def run(self) -> None:
        async with aclosing(self.source.watch()) as worlds:  # type: ignore[type-var]  # an async generator it is
            async for world in worlds:
                self.worlds.append(world)


async def install_kinds(api: ApiServer) -> None:
    """Install the CRDs of the mesh's kinds."""
    async with administrator(api) as cluster:
        await cluster.apply(*(path.read_text() for path in CRDS))


@asynccontextmanager
async def administrator(api: ApiServer) -> AsyncIterator[Cluster]:
    """The cluster behind an API server, with all rights."""
    client = connect(api.kubeconfig())
    try:
        yield Cluster(api, client)
    finally:
        await client.close()


@asynccontextmanager
async def following(cluster: Cluster, *, token: str = "", with_secrets: bool = True) -> AsyncIterator[Follower]:
    """A source of the cluster that is followed meanwhile; with all rights, or with those of a `token`."""
    client = connect(cluster.api.kubeconfig(token))
    follower = Follower(KubernetesSource(client, with_secrets=with_secrets))
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(follower.run())
            yield follower
            task.cancel()
    finally:
        await client.close()
