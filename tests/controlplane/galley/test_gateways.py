"""What galley says of gateways and of what is bound to them."""

import pytest

from pymesh_controlplane.galley.check import check
from tests.controlplane.pilot.gateway_worlds import EDGE, HTTP, gateway, virtual
from tests.controlplane.pilot.worlds import BOOKINFO, world_of


def findings(*manifests: str) -> list[str]:
    world = world_of(BOOKINFO + EDGE + "".join(manifests))
    return [
        f"{item.severity.value} {item.resource} {item.path}: {item.sentence}"
        for item in check(world.resources.values(), world)
    ]


def server(protocol: str = "HTTP", hosts: str = "['*']", number: int = 80) -> str:
    return f"{{port: {{number: {number}, name: x, protocol: {protocol}}}, hosts: {hosts}}}"


def test_a_right_gateway_and_its_virtual_service() -> None:
    assert findings(gateway(HTTP), virtual("[www.example.com]")) == []


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (server("MONGO"), "spec.servers[0].port.protocol: MONGO is not supported yet"),
        (server(hosts="['a b']"), "spec.servers[0].hosts[0]: 'a b' is not a host"),
        (server(hosts="['No_Namespace/a']"), "spec.servers[0].hosts[0]: 'No_Namespace' is not a namespace"),
    ],
)
def test_what_is_refused_of_a_server(written: str, expected: str) -> None:
    (found,) = findings(gateway(written))
    assert found.startswith(f"error Gateway default/edge {expected}")


def test_a_gateway_needs_a_server() -> None:
    assert findings(gateway()) == [
        "error Gateway default/edge spec.servers: there is no server: write at least one below spec.servers"
    ]


def test_a_gateway_that_no_pod_serves() -> None:
    assert findings(gateway(HTTP, selector="nobody")) == [
        "warning Gateway default/edge spec.selector: no pod has the labels istio=nobody: nothing serves it"
    ]


def test_what_an_earlier_gateway_has_already_is_told() -> None:
    (found,) = findings(gateway(HTTP), gateway(server("HTTPS"), name="second"))
    assert found == (
        "warning Gateway default/second spec.servers[0].port.protocol: Gateway default/edge has HTTP on port 80: "
        "use another port; it is not served"
    )


def test_a_host_that_no_server_has_is_told() -> None:
    (found,) = findings(gateway(server(hosts="[a.example.com]")), virtual("[a.example.com, b.example.com]"))
    assert found.startswith("warning VirtualService default/front spec.hosts[1]: no server of Gateway default/edge has")


def test_a_host_of_another_namespace_is_told() -> None:
    (found,) = findings(gateway(server(hosts="[web/a.example.com]")), virtual("[a.example.com]"))
    assert "for VirtualServices of default" in found


def test_a_gateway_that_does_not_exist() -> None:
    (found,) = findings(virtual("[www.example.com]"))
    assert found.startswith("error VirtualService default/front spec.gateways[0]: there is no Gateway edge")
