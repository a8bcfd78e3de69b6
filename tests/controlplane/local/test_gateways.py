"""The gateways' manifests: what runs, and what the machine and the mesh reach of it."""

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local import gateways, podcheck, system
from pymesh_controlplane.local.podspec import Pod


def pod(part: str, host_ports: dict[int, int]) -> Pod:
    document = next(item for item in gateways.manifests(part, host_ports, InjectionConfig()) if item["kind"] == "Pod")
    read = podcheck.read(Pod, document)
    assert isinstance(read, Pod), read
    return read


def test_the_ingress_gateway_has_ports_of_the_machine() -> None:
    (container,) = pod("ingress", {8080: 18080, 8443: 8443}).spec.containers
    found = {port.container_port: (port.host_ip, port.host_port) for port in container.ports}
    assert found == {8080: ("127.0.0.1", 18080), 8443: ("127.0.0.1", 8443), 15090: ("127.0.0.1", None)}
    assert container.command[:2] == ["pymesh-proxy", "--gateway"]


def test_selectors_and_services_find_them() -> None:
    for part, name in gateways.GATEWAYS.items():
        assert (pod(part, {}).metadata.labels or {})["istio"] == name
        (service,) = (item for item in gateways.manifests(part, {}, InjectionConfig()) if item["kind"] == "Service")
        assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(80, 8080), (443, 8443)]


@pytest.mark.parametrize("without", ["pilot", "citadel"])
def test_nobody_could_tell_them_what_to_do(without: str) -> None:
    assert not set(system.components([without])) & set(gateways.GATEWAYS)
    assert system.components(["ingress"])[-1] == "egress"


def test_a_part_that_does_not_exist() -> None:
    with pytest.raises(MeshError, match="there are pilot, citadel, policy, telemetry, ingress, egress"):
        system.components(["ingres"])
