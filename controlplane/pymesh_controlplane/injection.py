"""How the pods of a cluster are injected, as the cluster is now."""

import logging
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.resources import core_v1

from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.webhook import kubelets_of, native_sidecars
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Object
from pymesh_controlplane.metrics import Metrics

log = logging.getLogger("pymesh.controlplane")

# Versions of kubelets that are named in a log line.
_NAMED: Final = 5


class Injection:
    """Follows the nodes: where one of them cannot run native sidecars, no pod gets one, since it may come to that node.

    Args:
        client: of the API server, from `kube.client.connect`.
        version: what the API server says at `/version`.
        config: all else.
        metrics: where lists, events and errors are counted.
    """

    def __init__(
        self, client: AsyncClient, version: Mapping[str, object], config: InjectionConfig, metrics: Metrics
    ) -> None:
        self._version = version
        self._config = replace(config, native_sidecars=native_sidecars(version, ()))
        self._nodes = Reflector(client, core_v1.Node, trim=_kubelet, notify=self._changed, metrics=metrics)

    def __call__(self) -> InjectionConfig:
        """With what the next pod is injected."""
        return self._config

    def waiting(self) -> str:
        """What it waits for, for `/ready`."""
        return f"waiting for {what}" if (what := self._nodes.waiting()) else ""

    async def run(self) -> None:
        """Follow the nodes, until cancelled."""
        await self._nodes.run()

    async def listed(self) -> None:
        """Comes back when the nodes have been listed once."""
        async with aclosing(self._nodes.changes()) as changes:
            await anext(changes)

    def _changed(self) -> None:
        kubelets = kubelets_of(self._nodes.objects.values())
        native = native_sidecars(self._version, kubelets)
        if native != self._config.native_sidecars:
            kind = "native ones" if native else "ordinary containers, since native ones need kubelets of 1.29"
            log.info("sidecars of new pods are %s: kubelets are %s", kind, ", ".join(sorted(kubelets)[:_NAMED]) or "-")
            self._config = replace(self._config, native_sidecars=native)


def _kubelet(value: dict[str, Any]) -> Object:
    """Of a node, which kubelet it has. Its heartbeats are so no changes."""
    kept = {"apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": {"name": value["metadata"]["name"]}}
    version = ((value.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion")
    return {**kept, "status": {"nodeInfo": {"kubeletVersion": version}}}
