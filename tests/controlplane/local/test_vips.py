"""Addresses for the hosts of ServiceEntries: who gets one, that it stays, and what pilot and DNS make of it."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.resources.istio.service_entry import ServiceEntry
from pymesh.resources.parse import parse
from pymesh.resources.resource import Resource, holds
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local.judge import judge
from pymesh_controlplane.local.texts import Text
from pymesh_controlplane.local.vips import VIP_NETWORK, Vips, addressed, dns_names, entry_object
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.callers import ANYBODY
from pymesh_controlplane.pilot.outbound import plan


def entry(spec: str) -> Resource[ServiceEntry]:
    head = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, namespace: default}\n"
    parsed = parse(f"{head}spec: {{{spec}}}", "entry.yaml")
    assert not parsed.errors, parsed.errors
    (resource,) = parsed.resources
    assert holds(resource, ServiceEntry)
    return resource


STATIC = "resolution: STATIC, endpoints: [{address: 192.0.2.1}], ports: [{number: 7000, name: tcp, protocol: TCP}]"


@given(st.lists(st.text("abc.", min_size=1), max_size=50, unique=True))
def test_every_host_has_an_address_of_its_own(hosts: list[str]) -> None:
    vips = Vips()
    addresses = [vips.address(host) for host in hosts]
    assert len(set(addresses)) == len(hosts)
    assert all(ipaddress.IPv4Address(address) in VIP_NETWORK for address in addresses)
    assert [vips.address(host) for host in hosts] == addresses


def test_a_host_has_the_same_address_in_a_mesh_made_anew_and_keeps_it_beside_others() -> None:
    first, second = Vips(), Vips()
    for index in range(2000):
        second.address(f"other-{index}.example.com")
    assert first.address("api.example.com") == second.address("api.example.com")
    address = second.address("other-7.example.com")
    second.keep_only(["other-7.example.com"])
    assert second.address("other-7.example.com") == address


def test_only_so_many_hosts_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymesh_controlplane.local.vips.VIP_NETWORK", ipaddress.IPv4Network("240.240.0.0/29"))
    vips = Vips()
    assert len({vips.address(str(index)) for index in range(6)}) == 6
    with pytest.raises(Exception, match=r"all addresses of 240\.240\.0\.0/29 are taken"):
        vips.address("one too many")
    vips.keep_only(["1"])
    vips.address("one too many")


@pytest.mark.parametrize(
    ("spec", "answered"),
    [
        (f"hosts: [Db.example.com], {STATIC}", {"db.example.com": (Vips().address("db.example.com"),)}),
        (f"hosts: [db.example.com], addresses: [198.51.100.7], {STATIC}", {"db.example.com": ("198.51.100.7",)}),
        (f"hosts: [db.example.com], addresses: [198.51.100.0/24], {STATIC}", {}),
        (f"hosts: ['*.example.com'], {STATIC}", {}),
        ("hosts: [db.example.com], ports: [{number: 80, name: http}], resolution: NONE", {}),
    ],
)
def test_a_name_is_answered_with_what_stands_for_it(spec: str, answered: dict[str, tuple[str, ...]]) -> None:
    assert dns_names(addressed(entry(spec), Vips()).value) == answered


def test_pilot_routes_opaque_connections_by_the_address_of_its_host() -> None:
    written = entry(f"hosts: [db.example.com], {STATIC}")
    address = Vips().address("db.example.com")
    seen = parse(str(entry_object(written.raw, addressed(written, Vips()).value)), "observed.json").resources
    ((port, http, (opaque,)),) = plan(ANYBODY, world.build(seen))
    assert (port, http, opaque.ways[-1].ranges) == (7000, False, (f"{address}/32",))
    assert [(item[0], item[2]) for item in plan(ANYBODY, world.build([written]))] == [(7000, [])]


def test_an_address_for_a_wildcard_in_the_status_counts_for_nothing() -> None:
    text = f"hosts: ['*.example.com'], {STATIC}}}\nstatus: {{addresses: [{{value: 240.240.0.1, host: '*.example.com'}}]"
    assert entry(text).value.addresses() == []


def verdict(spec: str) -> list[str]:
    text = f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: x}}\nspec: {{{spec}}}\n"
    found = judge([Text("entry.yaml", str(Path("/")), text)], "default", {}, InjectionConfig())
    return [f"{item.severity.value} {item.path}: {item.sentence}" for item in found.problems]


def test_a_local_mesh_asks_for_no_addresses_and_says_which_hosts_nobody_would_find() -> None:
    assert verdict(f"hosts: [db.example.com], {STATIC}") == []
    assert "error spec.ports[0]: connections to port 7000 cannot be told" in verdict(f"hosts: ['*.a.b'], {STATIC}")[0]
    lookup = "hosts: [api.example.com], ports: [{number: 80, name: http}], resolution: DNS"
    (warning,) = verdict(lookup)
    assert warning.startswith("warning spec.resolution: a local mesh has no DNS but its own")
    assert verdict(f"{lookup}, endpoints: [{{address: api.outside.svc.cluster.local}}]") == []
