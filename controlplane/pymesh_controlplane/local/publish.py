"""What others have to know of the pods that run: pods by DNS, the kernel by address translation, pilot by files.

What the endpoint controller, kube-proxy and the cluster's DNS do, each for itself, in Kubernetes.
"""

import logging
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pymesh.errors import MeshError
from pymesh.resources.istio.service_entry import ServiceEntry
from pymesh.resources.kubernetes import EndpointSlice, Service
from pymesh.resources.resource import Key, digest_of, holds
from pymesh_controlplane.local import dns, observe, services, vips
from pymesh_controlplane.local.network import DNS_ADDRESS, Frontend, Network
from pymesh_controlplane.local.pod import PodRunner
from pymesh_controlplane.local.state import State
from pymesh_controlplane.local.store import Store, file_name, write_json

log = logging.getLogger("pymesh.local")

Document = dict[str, Any]


class Seen(NamedTuple):
    """A pod that there is, and the manifest that it was made of."""

    runner: PodRunner
    manifest: Document


class Publisher:
    """Keeps DNS, the address translation and the files that pilot watches up to date.

    Attributes:
        observed: the objects that pilot was shown, by the name of their file.
        shown: a digest of each.
    """

    def __init__(self, state: State, store: Store, network: Network) -> None:
        self.observed: dict[str, Mapping[str, Any]] = {}
        self.shown: dict[Key, str] = {}
        self._state = state
        self._store = store
        self._network = network
        self._cluster_ips = services.ClusterIps()
        self._vips = vips.Vips()
        self._dns = dns.Server(dns.Zone({}))

    async def start(self) -> None:
        """Answer DNS, in the mesh's network, which is there."""
        udp, tcp = self._network.socket(socket.SOCK_DGRAM), self._network.socket(socket.SOCK_STREAM)
        udp.bind((DNS_ADDRESS, 53))
        tcp.bind((DNS_ADDRESS, 53))
        tcp.listen()
        await self._dns.start(udp, tcp)

    async def stop(self) -> None:
        """Answer no more."""
        await self._dns.stop()

    async def publish(self, pods: Iterable[Seen]) -> None:
        """Bring everything up to date with `pods` and with the Services that were applied.

        Raises:
            MeshError: the kernel takes no address translation.
        """
        members: list[services.Member] = []
        documents: list[Document] = services.dns_objects()
        for runner, manifest in pods:
            facts, status = runner.facts, runner.status()
            members.append(
                services.Member(
                    facts.namespace, facts.name, facts.ip, facts.labels, status.serving, status.terminating, runner.spec
                )
            )
            documents.append(observe.pod_object(manifest, status, facts.ip, runner.created, facts.uid))
        applied = self._store.of_kind("Service")
        self._cluster_ips.keep_only((item.resource.key.namespace, item.resource.key.name) for item in applied)
        own_slices = [
            (item.resource.key.namespace, item.resource.value)
            for item in self._store.of_kind("EndpointSlice")
            if isinstance(item.resource.value, EndpointSlice)
        ]
        fronts: list[Frontend] = []
        zone: dict[str, tuple[str, ...]] = {}
        for item in applied:
            service = item.resource.value
            assert isinstance(service, Service)
            namespace = item.resource.key.namespace
            try:
                address = self._cluster_ips.address(namespace, service)
            except MeshError as error:
                log.error("%s", error)
                continue
            found = services.groups(namespace, service, members)
            if not service.spec.selector:
                found = services.groups_of_slices(namespace, service, own_slices)
            else:
                documents += services.slice_objects(namespace, service, found)
            documents.append(services.service_object(item.raw, address))
            fronts += services.frontends(service, address, found)
            zone |= services.dns_names(namespace, service, address, found)
        for entry, raw in self._entries():
            documents.append(vips.entry_object(raw, entry))
            zone = vips.dns_names(entry) | zone  # a Service of the same name is the nearer one
        self._dns.zone = dns.Zone(zone)
        await self._network.serve(fronts, [member.ip for member in members], services.leaving(members))
        self._write(documents)

    def _entries(self) -> Iterator[tuple[ServiceEntry, Document]]:
        """The ServiceEntries, with the addresses of their hosts, and their documents."""
        entries = [(item.resource, item.raw) for item in self._store.of_kind("ServiceEntry")]
        found = [(resource, raw) for resource, raw in entries if holds(resource, ServiceEntry)]
        self._vips.keep_only(host for entry, _ in found for host in entry.value.spec.hosts_without_address())
        for entry, raw in found:
            yield vips.addressed(entry, self._vips).value, raw

    def _write(self, documents: list[Document]) -> None:
        current: dict[str, Mapping[str, Any]] = {}
        shown: dict[Key, str] = {}
        for document in documents:
            metadata = document["metadata"]
            key = Key(document["kind"], metadata.get("namespace", ""), metadata["name"])
            name = file_name(key)
            current[name] = document
            if self.observed.get(name) != document:
                write_json(self._state.observed / name, document, self._state.temporary)
                shown[key] = digest_of(document)
            else:
                shown[key] = self.shown[key]
        for name in self.observed.keys() - current.keys():
            (self._state.observed / name).unlink(missing_ok=True)
        self.observed, self.shown = current, shown
