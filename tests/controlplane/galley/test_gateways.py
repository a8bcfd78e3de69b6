"""What galley says of gateways and of what is bound to them."""

import pytest

from pymesh_controlplane.galley.check import check
from tests.controlplane.galley.certificates import AUTHORITY, WEB, secret, tls_secret
from tests.controlplane.pilot.gateway_worlds import EDGE, HTTP, gateway, virtual
from tests.controlplane.pilot.worlds import BOOKINFO, world_of


def findings(*manifests: str) -> list[str]:
    world = world_of(BOOKINFO + EDGE + "".join(manifests))
    return [
        f"{item.severity.value} {item.resource} {item.path}: {item.sentence}"
        for item in check(world.resources.values(), world)
    ]


TLS = (
    "{port: {number: 443, name: https, protocol: HTTPS}, hosts: [www.example.com],"
    " tls: {mode: SIMPLE, credentialName: web}}"
)


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


def test_the_names_of_ports_tell_servers_apart() -> None:
    (found,) = findings(gateway(server(), server(number=443)))
    assert found.startswith("error Gateway default/edge spec.servers[1].port.name: spec.servers[0] has this name")


def test_keys_for_no_pods_in_particular() -> None:
    everywhere = gateway(TLS).replace("selector: {istio: ingressgateway}", "selector: {}")
    assert everywhere != gateway(TLS)
    (found,) = findings(everywhere, tls_secret(WEB), virtual("[www.example.com]"))
    assert found.startswith("warning Gateway default/edge spec.selector: without a selector every gateway pod")


def test_a_gateway_that_no_pod_serves() -> None:
    assert findings(gateway(HTTP, selector="nobody")) == [
        "warning Gateway default/edge spec.selector: no pod has the labels istio=nobody: nothing serves it"
    ]


@pytest.mark.parametrize(("number", "reached"), [(80, True), (8080, True), (81, False)])
def test_a_port_that_no_service_in_front_of_the_pods_has_is_told(number: int, reached: bool) -> None:
    """8080 is where the Service's port 80 leads to: a server there is reached as one at 80 is."""
    expected = (
        "warning Gateway default/edge spec.servers[0].port.number: no Service in front of the pods has the port 81, "
        "so none leads to this server; there are 80, 443"
    )
    assert findings(gateway(server(number=number))) == ([] if reached else [expected])


def test_pods_without_a_service_in_front_are_reached_at_their_own_ports() -> None:
    alone = EDGE.replace("  selector: {istio: ingressgateway}", "  selector: {istio: another}")
    assert alone != EDGE
    world = world_of(BOOKINFO + alone + gateway(server(number=81)))
    assert check(world.resources.values(), world) == []


def test_the_name_of_a_containers_port_may_stand_for_any_number() -> None:
    named = EDGE.replace("targetPort: 8080", "targetPort: web")
    world = world_of(BOOKINFO + named + gateway(server(number=81)))
    assert check(world.resources.values(), world) == []


def test_what_an_earlier_gateway_has_already_is_told() -> None:
    (found,) = findings(gateway(HTTP), gateway(TLS.replace("443", "80"), name="second"), tls_secret(WEB))
    assert found == (
        "warning Gateway default/second spec.servers[0].port.protocol: Gateway default/edge, "
        "which comes first by name, has HTTP on port 80: use another port; it is not served"
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


def tls(settings: str, protocol: str = "HTTPS") -> str:
    return f"{{port: {{number: 443, name: x, protocol: {protocol}}}, hosts: [www.example.com], tls: {{{settings}}}}}"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (server("HTTPS", number=443), "spec.servers[0]: HTTPS needs tls"),
        (tls("mode: SIMPLE", "HTTP"), "spec.servers[0].tls: HTTP has no TLS, only httpsRedirect"),
        (tls("mode: SIMPLE"), "spec.servers[0].tls: SIMPLE needs credentialName"),
        (tls("credentialName: web"), "spec.servers[0].tls.mode: no mode is not supported for HTTPS"),
        (tls("mode: OPTIONAL_MUTUAL"), "spec.servers[0].tls.mode: OPTIONAL_MUTUAL is not supported for HTTPS"),
        (tls("mode: SIMPLE, credentialName: web", "TLS"), "spec.servers[0].tls.mode: SIMPLE is not supported for TLS"),
        (tls("mode: PASSTHROUGH, credentialName: web"), "spec.servers[0].tls.credentialName: PASSTHROUGH uses no"),
        (
            tls("mode: SIMPLE, credentialName: web, subjectAltNames: [a]"),
            "spec.servers[0].tls.subjectAltNames: names of clients",
        ),
        (
            tls("mode: SIMPLE, credentialName: web, minProtocolVersion: TLSV1_1"),
            "spec.servers[0].tls.minProtocolVersion: TLSV1_1 is broken",
        ),
        (
            tls("mode: SIMPLE, credentialName: web, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2"),
            "spec.servers[0].tls.minProtocolVersion: is above",
        ),
        (
            tls("mode: SIMPLE, credentialName: web, httpsRedirect: true"),
            "spec.servers[0].tls.httpsRedirect: is for servers of plain HTTP",
        ),
    ],
)
def test_what_is_refused_of_tls(written: str, expected: str) -> None:
    (found,) = findings(gateway(written), tls_secret(WEB))
    assert found.startswith(f"error Gateway default/edge {expected}")


def test_every_mode_that_is_right() -> None:
    secrets = tls_secret(WEB), tls_secret(WEB, "both", AUTHORITY.root)
    for settings in ("mode: SIMPLE, credentialName: web", "mode: MUTUAL, credentialName: both", "mode: ISTIO_MUTUAL"):
        assert findings(gateway(tls(settings)), *secrets) == []
    for settings in ("mode: PASSTHROUGH", "mode: ISTIO_MUTUAL"):
        assert findings(gateway(tls(settings, "TLS")), *secrets) == []


@pytest.mark.parametrize(
    ("settings", "held", "expected"),
    [
        ("mode: SIMPLE, credentialName: web", "", "there is no Secret pymesh-system/web"),
        ("mode: SIMPLE, credentialName: web", secret(), "Secret pymesh-system/web has no tls.crt and tls.key"),
        ("mode: MUTUAL, credentialName: web", tls_secret(WEB), "MUTUAL needs the roots of its clients' certificates"),
    ],
)
def test_a_certificate_that_is_not_there_is_told(settings: str, held: str, expected: str) -> None:
    (found,) = findings(gateway(tls(settings)), held)
    assert found.startswith(f"warning Gateway default/edge spec.servers[0].tls.credentialName: {expected}")
    assert found.endswith("TLS handshakes for www.example.com fail")


def test_the_roots_may_be_a_secret_of_their_own() -> None:
    roots = secret("web-cacert", {"ca.crt": AUTHORITY.root})
    assert findings(gateway(tls("mode: MUTUAL, credentialName: web")), tls_secret(WEB), roots) == []


def test_a_secret_that_cannot_be_read_does_not_keep_the_gateway_from_being_judged() -> None:
    broken = secret().replace("data: {}", "data: {tls.crt: '?'}")
    found = findings(gateway(tls("mode: SIMPLE, credentialName: web")), broken)
    assert [line.split()[1] for line in found] == ["Gateway", "Secret"]


@pytest.mark.parametrize("name", ["pymesh-ca", "cacerts"])
def test_the_secret_of_the_meshs_ca_is_no_certificate_of_a_gateway(name: str) -> None:
    found = findings(gateway(tls(f"mode: SIMPLE, credentialName: {name}")), tls_secret(WEB, name))
    assert any(f"a Secret of the name {name} has the mesh's CA and goes to no gateway: TLS" in line for line in found)
