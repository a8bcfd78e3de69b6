"""Pods → workloads: who has an address, who made it, where it stands, and whether it accepts mutual TLS. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from pymesh import names
from pymesh.resources import kubernetes
from pymesh.resources.fields import ObjectMeta
from pymesh.resources.istio.peer_authentication import PeerAuthentication
from pymesh.resources.resource import Resource
from pymesh_controlplane.injector.workload import made_by
from pymesh_controlplane.pilot.model import NOWHERE, Endpoint, Locality, Workload
from pymesh_controlplane.pilot.policies import Mtls, peer_modes


class _Pod(NamedTuple):
    workload: Workload
    addresses: tuple[str, ...]


class Pods(NamedTuple):
    """The pods, and what decides whether they accept mutual TLS.

    Attributes:
        by_address: those that have addresses of their own: not those in the network of their node.
        by_name: all of them, by namespace and name.
        by_label: those of `by_address`, by namespace, label and value.
        nodes: where the nodes stand.
    """

    by_address: Mapping[str, Workload]
    by_name: Mapping[tuple[str, str], _Pod]
    by_label: Mapping[tuple[str, str, str], list[Workload]]
    nodes: Mapping[str, Locality]
    policies: tuple[Resource[PeerAuthentication], ...]
    root_namespace: str

    def selected(self, namespace: str, selector: Mapping[str, str]) -> list[Workload]:
        """The pods that a service selects; without a selector none."""
        if not selector:
            return []
        label, value = next(iter(selector.items()))
        some = self.by_label.get((namespace, label, value), [])
        return [workload for workload in some if selector.items() <= workload.labels.items()]

    def endpoint(self, address: str, port: int, labels: Mapping[str, str] | None = None, weight: int = 1) -> Endpoint:
        """The endpoint at `address:port`, with the labels of the pod there if it is given none."""
        endpoint = self._endpoint(self.by_address.get(address), address, port, NOWHERE)
        return replace(endpoint, labels=labels or endpoint.labels, weight=weight)

    def behind(self, item: kubernetes.SliceEndpoint, address: str, namespace: str) -> tuple[Workload | None, bool]:
        """The pod behind an address of a slice of `namespace`, if one is, and whether the slice agrees with that.

        Slices and pods are watched side by side, so for a moment one may tell more than the other: of a pod that is not
        known yet, or of one whose address is already another's. Nobody may be taken for somebody else meanwhile.
        """
        target = item.target_ref
        if target is None or target.kind != "Pod":
            return self.by_address.get(address), True
        pod = self.by_name.get((target.namespace or namespace, target.name))
        return (pod.workload, True) if pod is not None and address in pod.addresses else (None, False)

    def slice_endpoint(
        self, item: kubernetes.SliceEndpoint, address: str, port: int, namespace: str
    ) -> Endpoint | None:
        """The endpoint at `address:port` of a slice; None as long as its pod is not known."""
        workload, agreed = self.behind(item, address, namespace)
        if not agreed:
            return None
        stands = self.nodes.get(item.node_name or "", Locality(zone=item.zone or ""))
        return self._endpoint(workload, address, port, stands)

    def _endpoint(self, workload: Workload | None, address: str, port: int, stands: Locality) -> Endpoint:
        if workload is None:
            return Endpoint(address, port, {}, locality=stands)
        mesh = False
        if workload.mesh:
            modes = peer_modes(workload.namespace, workload.labels, self.policies, self.root_namespace)
            mesh = modes.at(port) is not Mtls.DISABLE
        where = workload.locality if workload.locality != NOWHERE else stands
        return Endpoint(address, port, workload.labels, workload, mesh, locality=where)


def pods_of(
    resources: Iterable[Resource[kubernetes.Pod]],
    nodes: Iterable[Resource[kubernetes.Node]],
    policies: tuple[Resource[PeerAuthentication], ...],
    root_namespace: str,
) -> Pods:
    """The pods that have an address and have not ended. Of two that say the same address the newer one has it."""
    where = {resource.key.name: _locality(resource.value.metadata) for resource in nodes}
    by_name: dict[tuple[str, str], _Pod] = {}
    by_address: dict[str, Workload] = {}
    for resource in sorted(resources, key=_created):
        pod = resource.value
        if pod.status is None or not pod.status.addresses or pod.status.phase in {"Succeeded", "Failed"}:
            continue
        found = _Pod(_workload(resource, where), pod.status.addresses)
        by_name[resource.key.namespace, resource.key.name] = found
        if not pod.spec.host_network:
            by_address |= dict.fromkeys(found.addresses, found.workload)
    by_label: dict[tuple[str, str, str], list[Workload]] = {}
    for workload in dict(sorted(by_address.items())).values():
        for label, value in workload.labels.items():
            by_label.setdefault((workload.namespace, label, value), []).append(workload)
    return Pods(dict(sorted(by_address.items())), by_name, by_label, where, policies, root_namespace)


def _workload(resource: Resource[kubernetes.Pod], nodes: Mapping[str, Locality]) -> Workload:
    pod = resource.value
    assert pod.status is not None, "a pod without an address is no workload"
    labels = pod.metadata.labels or {}
    return Workload(
        name=resource.key.name,
        namespace=resource.key.namespace,
        ip=pod.status.addresses[0],
        service_account=pod.spec.service_account_name or "default",
        workload=_workload_name(pod.metadata),
        labels=labels,
        container_ports=_container_ports(pod.spec),
        # In the network of its node nothing is redirected, so no sidecar stands in front of it whatever it says.
        mesh=labels.get(names.LABEL_TLS_MODE) == "istio" and not pod.spec.host_network,
        locality=nodes.get(pod.spec.node_name or "", NOWHERE),
    )


def _created(resource: Resource[kubernetes.Pod]) -> str:
    return str(resource.value.metadata.creation_timestamp or "")  # RFC 3339 in UTC: sorts as text


def _workload_name(metadata: ObjectMeta) -> str:
    """What made the pod: its controller, or what made that."""
    for owner in metadata.owner_references or []:
        if owner.controller:
            return made_by(owner.kind, owner.name, (metadata.labels or {}).get("pod-template-hash", ""))
    return metadata.name


def _container_ports(spec: kubernetes.PodSpec) -> dict[str, int]:
    """By name; nameless ones under their number. Init containers that go on running have ports, too."""
    sidecars = [container for container in spec.init_containers or [] if container.restart_policy == "Always"]
    ports = [port for container in [*sidecars, *spec.containers] for port in container.ports or []]
    return {port.name or str(port.container_port): port.container_port for port in ports if _is_tcp(port)}


def _is_tcp(port: kubernetes.ContainerPort) -> bool:
    return port.protocol.upper() == "TCP"


def _locality(metadata: ObjectMeta) -> Locality:
    labels = metadata.labels or {}
    return Locality(*(labels.get(label, "") for label in names.LABELS_LOCALITY))
