"""Addresses for the hosts of ServiceEntries: what a name outside the mesh is answered with, so that apps dial it. Pure.

An app that asks for `api.example.com` gets an address that is nobody's but stands for this host, and so is told from
every other, whatever is spoken there; the sidecar knows what is behind it. As Istio's address allocation (release 1.27)
they come from 240.240.0.0/16, are told in the status of the ServiceEntry, and nobody has one for a wildcard, for an
entry that has addresses, or for one that goes where the caller dials (resolution NONE).
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from pymesh.errors import MeshError
from pymesh.resources.istio.service_entry import EntryAddress, ServiceEntry, ServiceEntryStatus
from pymesh.resources.resource import Resource

VIP_NETWORK: Final = ipaddress.IPv4Network("240.240.0.0/16")


class Vips:
    """Hands out addresses, and keeps one for a host as long as some entry has it.

    Which one is told by the host's name, unless another host has that one: so a mesh made anew has the same.
    """

    def __init__(self) -> None:
        self._by_host: dict[str, str] = {}
        self._taken: set[str] = set()

    def address(self, host: str) -> str:
        """The address of `host`.

        Raises:
            MeshError: all are taken.
        """
        if host not in self._by_host:
            found = self._free(host)
            self._by_host[host] = found
            self._taken.add(found)
        return self._by_host[host]

    def _free(self, host: str) -> str:
        count = VIP_NETWORK.num_addresses - 2
        first = int.from_bytes(hashlib.sha256(host.encode()).digest()[:8], "big") % count
        for step in range(count):
            address = str(VIP_NETWORK[1 + (first + step) % count])
            if address not in self._taken:
                return address
        raise MeshError(f"all addresses of {VIP_NETWORK} are taken")

    def keep_only(self, hosts: Iterable[str]) -> None:
        """Take back the addresses of all other hosts."""
        wanted = set(hosts)
        self._by_host = {host: address for host, address in self._by_host.items() if host in wanted}
        self._taken = set(self._by_host.values())


def addressed(entry: Resource[ServiceEntry], vips: Vips) -> Resource[ServiceEntry]:
    """The entry with an address for every host that is to have one, in place of what its status said.

    Raises:
        MeshError: all addresses are taken.
    """
    found = [EntryAddress(value=vips.address(host), host=host) for host in entry.value.spec.hosts_without_address()]
    value = msgspec.structs.replace(entry.value, status=ServiceEntryStatus(addresses=found))
    return replace(entry, value=value)


def entry_object(raw: Mapping[str, Any], entry: ServiceEntry) -> dict[str, Any]:
    """The entry `raw` as pilot is shown it: with the addresses of its hosts."""
    addresses = [{"value": item.value, "host": item.host} for item in entry.addresses()]
    return {**raw, "status": {"addresses": addresses}}


def dns_names(entry: ServiceEntry) -> dict[str, tuple[str, ...]]:
    """What the names of an entry are answered with; not wildcards, nor what has a range of addresses."""
    single = tuple(address for address in entry.spec.addresses if "/" not in address)
    allocated = {item.host: item.value for item in entry.addresses()}
    found: dict[str, tuple[str, ...]] = {}
    for host in (host.lower() for host in entry.spec.hosts if "*" not in host):
        answer = (allocated[host],) if host in allocated else single
        if answer:
            found[host] = answer
    return found
