"""Services: which pods are behind them, and what follows for addresses, names and slices."""

import json
from dataclasses import replace

import pytest

from pymesh.errors import ConfigError, MeshError
from pymesh.resources.kubernetes import EndpointSlice, Service
from pymesh.resources.parse import parse
from pymesh_controlplane.local import services
from pymesh_controlplane.local.network import Frontend
from pymesh_controlplane.local.podspec import Container, ContainerPort, PodSpec
from pymesh_controlplane.local.services import ClusterIps, Endpoint, Member
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.model import Protocol

SPEC = PodSpec(containers=[Container(name="c", ports=[ContainerPort(container_port=8080, name="web")])])
A = Member("default", "a", "10.244.0.2", {"app": "web"}, True, False, SPEC)
B = replace(A, name="b", ip="10.244.0.3")


def service(name: str = "web", **spec: object) -> Service:
    body = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}], **spec}
    text = str({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}).replace(
        "True", "true"
    )
    parsed = parse(text, "test.yaml")
    assert not parsed.errors, parsed.errors
    value = parsed.resources[0].value
    assert isinstance(value, Service)
    return value


def test_a_named_port_is_looked_up_in_each_pod() -> None:
    other = replace(
        B, spec=PodSpec(containers=[Container(name="c", ports=[ContainerPort(container_port=9090, name="web")])])
    )
    found = services.groups("default", service(), [A, other])
    assert [(group.ports[0][1], group.endpoints[0].ip) for group in found] == [(8080, A.ip), (9090, other.ip)]
    fronts = services.frontends(service(), "10.96.0.11", found)
    assert fronts == [Frontend("10.96.0.11", 80, "TCP", ((A.ip, 8080), (other.ip, 9090)))]


def test_only_ready_pods_of_the_namespace_with_the_labels_are_reached() -> None:
    members = [
        A,
        replace(B, ready=False),
        replace(B, name="c", namespace="other"),
        replace(B, name="d", labels={"app": "db"}),
        replace(B, name="e", terminating=True),
    ]
    found = services.groups("default", service(), members)
    assert [(endpoint.pod, endpoint.ready) for endpoint in found[0].endpoints] == [
        ("a", True),
        ("b", False),
        ("e", False),
    ]
    assert services.frontends(service(), "10.96.0.11", found)[0].backends == ((A.ip, 8080),)
    everyone = service(publishNotReadyAddresses=True)
    assert services.groups("default", everyone, members)[0].endpoints[1].ready


def test_what_is_about_to_end_answers_where_nothing_else_does() -> None:
    ending = [replace(A, terminating=True), replace(B, terminating=True, ready=False)]
    for members, expected in ((ending, ((A.ip, 8080),)), ([ending[0], B], ((B.ip, 8080),))):
        found = services.groups("default", service(), members)
        assert services.frontends(service(), "10.96.0.11", found)[0].backends == expected


def test_a_headless_service_has_the_addresses_of_its_pods() -> None:
    headless = service(clusterIP="None")
    found = services.groups("default", headless, [A, B, replace(B, name="c", ready=False)])
    assert services.frontends(headless, services.HEADLESS, found) == []
    host = "web.default.svc.cluster.local"
    expected = {host: (A.ip, B.ip), f"a.{host}": (A.ip,), f"b.{host}": (B.ip,)}
    assert services.dns_names("default", headless, services.HEADLESS, found) == expected
    assert services.dns_names("default", service(), "10.96.0.11", [])[host] == ("10.96.0.11",)


def test_slices_say_who_is_ready_and_belong_to_their_service() -> None:
    found = services.groups("default", service(), [A, replace(B, terminating=True)])
    [piece] = services.slice_objects("default", service(), found)
    assert piece["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    assert piece["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert [endpoint["conditions"] for endpoint in piece["endpoints"]] == [
        {"ready": True, "serving": True, "terminating": False},
        {"ready": False, "serving": True, "terminating": True},
    ]
    # What is written for pilot is what pilot reads.
    assert not parse(str(piece).replace("True", "true").replace("False", "false"), "slice.yaml").errors
    assert services.slice_objects("default", service(), [])[0]["endpoints"] == []


def test_a_service_without_a_selector_has_the_operators_slices() -> None:
    text = """
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {name: x, labels: {kubernetes.io/service-name: web}},
 ports: [{name: http, port: 7000}], endpoints: [{addresses: [192.0.2.7]},
 {addresses: [192.0.2.8], conditions: {ready: false}}]}
"""
    piece = parse(text, "slice.yaml").resources[0].value
    assert isinstance(piece, EndpointSlice)
    bare = service(selector={})
    [group] = services.groups_of_slices("default", bare, [("default", piece), ("other", piece)])
    assert group.endpoints == (Endpoint("192.0.2.7", True), Endpoint("192.0.2.8", False))
    assert services.frontends(bare, "10.96.0.11", [group])[0].backends == (("192.0.2.7", 7000),)


def test_a_service_keeps_its_address_until_it_is_gone() -> None:
    ips = ClusterIps()
    first, second = ips.address("default", service("a")), ips.address("default", service("b"))
    assert (first, second, ips.address("default", service("a"))) == ("10.96.0.11", "10.96.0.12", first)
    assert ips.address("default", service("c", clusterIP="10.96.1.1")) == "10.96.1.1"
    with pytest.raises(MeshError, match=r"10\.96\.1\.1 belongs to Service default/c"):
        ips.address("default", service("d", clusterIP="10.96.1.1"))
    ips.keep_only([("default", "b")])
    assert ips.address("default", service("e")) == first


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"clusterIP": "192.0.2.1"}, "choose a free address"),
        ({"clusterIP": "10.96.0.10"}, "choose"),
        ({"clusterIP": "x"}, "choose"),
    ],
)
def test_what_a_local_mesh_cannot_give_is_refused(spec: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        services.check(service(**spec))


def test_only_the_egress_gateways_pods_of_the_mesh_itself_may_leave_it() -> None:
    labelled = replace(A, labels={"istio": "egressgateway"})
    gateway = replace(labelled, namespace="pymesh-system", ip="10.244.0.9")
    assert services.leaving([A, labelled, gateway, replace(gateway, labels={"istio": "ingressgateway"})]) == [
        gateway.ip
    ]


def test_the_meshs_dns_is_a_service_that_pilot_can_read() -> None:
    parsed = parse("---\n".join(json.dumps(item) + "\n" for item in services.dns_objects()), "observed.json")
    assert not parsed.errors
    current = world.build(parsed.resources)
    (service,) = current.services.values()
    assert (service.host, service.addresses) == ("kube-dns.kube-system.svc.cluster.local", ("10.96.0.10",))
    assert [(port.port, port.protocol) for port in service.ports] == [(53, Protocol.TCP)]
    (endpoint,) = current.endpoints[service.host, 53]
    assert (endpoint.address, endpoint.port, endpoint.mesh) == ("10.96.0.10", 53, False)
