"""Istio's ServiceEntry: a service that Kubernetes does not know of.

Source: istio.io/docs/reference/config/networking/service-entry and .../workload-entry, release 1.27.
"""

from typing import Literal

from pymesh.resources.fields import Block, Loose, NotYet, ObjectMeta, Port, Weight
from pymesh.resources.istio.common import Hosts, Labels, PortProtocol


class EntryPort(Block, frozen=True):
    """A port of a service entry."""

    number: Port
    name: str
    protocol: PortProtocol | None = None
    target_port: Port | None = None


class WorkloadEntrySpec(Block, frozen=True):
    """An endpoint of a service entry."""

    address: str | None = None
    ports: dict[str, Port] = {}
    labels: Labels = {}
    weight: Weight | None = None
    service_account: NotYet = None
    network: NotYet = None
    locality: NotYet = None


class ServiceEntrySpec(Block, frozen=True):
    """networking.istio.io ServiceEntry."""

    hosts: Hosts
    addresses: list[str] = []
    ports: list[EntryPort] = []
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] = "NONE"
    endpoints: list[WorkloadEntrySpec] = []
    export_to: list[str] = []
    subject_alt_names: NotYet = None
    workload_selector: NotYet = None

    def hosts_without_address(self) -> list[str]:
        """The hosts for which an address can be allocated, in lower case.

        A wildcard stands for too many, and an entry with resolution NONE goes where the caller dials, which has to be
        an address that there is (istio.io/docs/ops/configuration/traffic-management/dns-proxy).
        """
        if self.addresses or self.resolution == "NONE":
            return []
        return list(dict.fromkeys(host.lower() for host in self.hosts if "*" not in host))


class EntryAddress(Loose, frozen=True):
    """An address that was allocated for a host."""

    value: str
    host: str = ""


class ServiceEntryStatus(Loose, frozen=True):
    """What a runtime says of a service entry."""

    addresses: list[EntryAddress] = []


class ServiceEntry(Block, frozen=True):
    """A service that Kubernetes does not know of."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: ServiceEntrySpec
    status: ServiceEntryStatus | None = None

    def addresses(self) -> list[EntryAddress]:
        """The addresses that were allocated for hosts of it that may have one."""
        hosts = self.spec.hosts_without_address()
        return [item for item in (self.status.addresses if self.status else []) if item.host.lower() in hosts]
