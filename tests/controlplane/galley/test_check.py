"""What galley refuses and what it only warns of: the words, the field and the place."""

import pytest

from pymesh_controlplane.galley.check import check
from pymesh_controlplane.galley.findings import MAX_HINTS, MAX_PROBLEMS
from pymesh_controlplane.pilot.memory import Memory
from pymesh_controlplane.pilot.model import Severity
from tests.controlplane.galley.judged import TO, findings, only, resource, virtual
from tests.controlplane.pilot.worlds import BOOKINFO, EVERYTHING, pod, service, slice_of, world_of


def test_a_right_world_has_no_errors() -> None:
    world = world_of(EVERYTHING)
    assert [str(item) for item in check(world.resources.values(), world) if item.severity is Severity.ERROR] == []
    assert findings(BOOKINFO) == []


def test_a_problem_says_where_and_what_to_do() -> None:
    spec = "{hosts: [ratings], http: [{route: [{destination: {host: ratngs}}]}]}"
    text = BOOKINFO + resource("VirtualService", spec)
    before = text[: text.index("host: ratngs")]
    line, column = before.count("\n") + 1, len(before) - before.rindex("\n")
    world = world_of(text)
    (problem,) = check(world.resources.values(), world)
    assert str(problem) == (
        f"world.yaml:{line}:{column}: VirtualService default/x: spec.http[0].route[0].destination.host: error: "
        "there is no service ratngs.default.svc.cluster.local; did you mean ratings?"
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "{host: ratngs}",
            "warning spec.host: there is no service ratngs.default.svc.cluster.local: nothing follows it yet; did you",
        ),
        ("{host: reviews}", "warning spec.host: DestinationRule default/reviews already holds"),
        ("{host: ratings, subsets: [{name: a}, {name: a}]}", "error spec.subsets[1].name: there are two subsets 'a'"),
        (
            "{host: ratings, trafficPolicy: {portLevelSettings: [{port: {number: 1}}]}}",
            "error spec.trafficPolicy.portLevelSettings[0].port.number: ratings.default.svc.cluster.local has no port",
        ),
        (
            "{host: ratings, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 0s}}}}",
            "error spec.trafficPolicy.connectionPool.tcp.connectTimeout: must be at least 1ms",
        ),
        (
            "{host: ratings, trafficPolicy: {tls: {mode: MUTUAL, privateKey: /k}}}",
            "error spec.trafficPolicy.tls.clientCertificate: mode MUTUAL needs",
        ),
        (
            "{host: ratings, subsets: [{name: a, trafficPolicy: {tls: {mode: DISABLE, caCertificates: /r}}}]}",
            "error spec.subsets[0].trafficPolicy.tls.caCertificates: has no effect with mode DISABLE",
        ),
    ],
)
def test_destination_rules(spec: str, expected: str) -> None:
    assert expected in only(BOOKINFO + resource("DestinationRule", spec))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{hosts: [a.b], ports: []}", "error spec.ports: there is no port"),
        ("{hosts: ['*'], ports: [{number: 1, name: http}]}", "error spec.hosts[0]: '*' is every host there is"),
        (
            "{hosts: [ratings.default.svc.cluster.local], ports: [{number: 1, name: http}]}",
            "warning spec.hosts[0]: ratings.default.svc.cluster.local is already defined by Service default/ratings",
        ),
        (
            "{hosts: [a.b], ports: [{number: 1, name: tcp}]}",
            "error spec.ports[0]: connections to port 1 cannot be",
        ),
        (
            "{hosts: [a.b], ports: [{number: 1, name: http}, {number: 1, name: b}]}",
            "error spec.ports[1].number: there is a port",
        ),
        (
            "{hosts: [a.b], ports: [{number: 1, name: http}], addresses: [x]}",
            "error spec.addresses[0]: 'x' is not an IPv4",
        ),
        ("{hosts: [a.b], ports: [{number: 1, name: http}], resolution: STATIC}", "resolution STATIC needs endpoints"),
        ("{hosts: ['*.b'], ports: [{number: 1, name: http}], resolution: DNS}", "*.b cannot be looked up"),
        (
            "{hosts: [a.b], ports: [{number: 1, name: http}], endpoints: [{address: 1.2.3.4}]}",
            "resolution NONE goes where",
        ),
        (
            "{hosts: [a.b], ports: [{number: 1, name: http}], resolution: STATIC, endpoints: [{address: c.d}]}",
            "error spec.endpoints[0].address: 'c.d' is not an IPv4 address; names need resolution DNS",
        ),
        (
            "{hosts: [a], ports: [{number: 1, name: http}], resolution: DNS, endpoints: [{address: c, ports: {x: 1}}]}",
            "error spec.endpoints[0].ports.x: there is no port named x in spec.ports; there are http",
        ),
        (
            "{hosts: [a.b], ports: [{number: 1, name: http}], resolution: DYNAMIC_DNS}",
            "DYNAMIC_DNS is not supported yet",
        ),
        ("{hosts: [a.b], ports: [{number: 1, name: http, targetPort: 2}]}", "has no effect with resolution NONE"),
    ],
)
def test_service_entries(spec: str, expected: str) -> None:
    assert expected in only(BOOKINFO + resource("ServiceEntry", spec))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            service("a", "[{port: 1}, {port: 2, name: b}]"),
            "error spec.ports[0].name: every port of a service with several",
        ),
        (
            service("a", "[{port: 1, name: b}, {port: 2, name: b}]"),
            "error spec.ports[1].name: there is such a port above",
        ),
        (service("a", ip="x"), "error spec.clusterIP: 'x' is not an IP address"),
        (service("a", ip="'fd00::1'"), "warning spec.clusterIP: IPv6 is not supported yet"),
        (
            service("a", "[{port: 1, name: grpc}]"),
            "warning spec.ports[0]: HTTP/2 and gRPC are carried as opaque TCP yet",
        ),
        (
            service("a").replace("spec:", "spec:\n  type: ExternalName\n  externalName: 'http://x'"),
            "error spec.externalName: 'http://x' is not a host",
        ),
        (
            service("a").replace("spec:", "spec:\n  externalIPs: [1.2.3.4, 300.1.1.1]"),
            "error spec.externalIPs[1]: '300.1.1.1' is not an IP address",
        ),
        (service("a").replace("spec:", "spec:\n  sessionAffinity: ClientIP"), "warning spec.sessionAffinity"),
        (pod("a", "300.1.1.1", "a"), "error status.podIP: '300.1.1.1' is not an IP address"),
        (slice_of("a", "x"), "error endpoints[0].addresses[0]: 'x' is not an IPv4 address"),
        (slice_of("a", "fd00::1").replace("IPv4", "IPv6"), "warning addressType: IPv6 is not supported yet"),
        (slice_of("a").replace("kubernetes.io/service-name", "other"), "warning metadata.labels: without the label"),
    ],
)
def test_kubernetes_kinds(text: str, expected: str) -> None:
    assert expected in only(text)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{portLevelMtls: {80: {mode: STRICT}}}", "error spec.portLevelMtls: ports belong to a workload"),
        (
            "{selector: {matchLabels: {}}, portLevelMtls: {80: {}}}",
            "error spec.portLevelMtls: ports belong to a workload",
        ),
    ],
)
def test_peer_authentication(spec: str, expected: str) -> None:
    assert expected in only(resource("PeerAuthentication", spec))


def test_peer_authentication_for_nobody_is_warned_of() -> None:
    nobody = BOOKINFO + resource("PeerAuthentication", "{selector: {matchLabels: {app: nobody}}, mtls: {mode: STRICT}}")
    assert only(nobody) == (
        "warning spec.selector.matchLabels: it selects no pod of namespace default, and has no effect"
    )
    assert findings(nobody.replace("app: nobody", "app: reviews")) == []


def test_two_policies_for_one_namespace_are_warned_of() -> None:
    text = resource("PeerAuthentication", "{mtls: {mode: STRICT}}", "a") + resource("PeerAuthentication", "{}", "b")
    assert (
        only(text)
        == "warning spec: PeerAuthentication default/a already holds for the whole namespace: this one has no effect"
    )


def test_a_subset_that_is_not_there_is_told_of_on_both_sides() -> None:
    """To whoever wrote the route, and to whoever takes a subset away that is in use."""
    rule, route = findings(BOOKINFO.replace("{name: v3, labels: {version: v3}}", "{name: version3}"))
    assert route == (
        "error spec.http[1].route[1].destination.subset: DestinationRule default/reviews has no subset 'v3'; "
        "it has v1, v2, version3"
    )
    assert rule == (
        "warning spec.subsets: VirtualService default/reviews routes to the subset 'v3', which is not here: "
        "that gets a 503"
    )


def test_what_is_found_does_not_depend_on_what_was_found_before() -> None:
    """One memory for all: worlds with mistakes and without, back and forth."""
    memory = Memory()
    unsupported = (
        "{route: [{destination: {host: ratings}, weight: 1, headers: {request: {set: {a: b}}}}, "
        "{destination: {host: reviews}, weight: 1}]}"
    )
    routes = ["{route: [{destination: {host: gone}}]}", unsupported, f"{{{TO}}}", unsupported]
    texts = [EVERYTHING, BOOKINFO, *map(virtual, routes)]
    for text in texts * 2:
        world = world_of(text)
        assert check(world.resources.values(), world, memory) == check(world.resources.values(), world)


def test_a_provider_of_the_mesh_config_that_is_not_there_yet_is_told() -> None:
    provider = "    - name: otel\n      opentelemetry: {service: %s, port: %d}\n"
    text = (
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: pymesh, namespace: pymesh-system}\n"
        "data:\n  mesh: |\n    extensionProviders:\n" + provider
    )
    assert "there is no service collector.default.svc.cluster.local yet" in only(
        BOOKINFO + text % ("collector.default.svc.cluster.local", 4317)
    )
    assert only(BOOKINFO + text % ("default/reviews.default", 4317)) == (
        "warning data.mesh.extensionProviders[0].opentelemetry.port: "
        "reviews.default.svc.cluster.local has no port 4317; it has 9080"
    )
    assert findings(BOOKINFO + text % ("reviews.default", 9080)) == []


def test_of_many_problems_the_first_are_told_and_the_rest_is_counted() -> None:
    to = "{destination: {host: nowhere}, weight: 1}"
    route = f"{{route: [{to}, {to}], match: [{{uri: {{prefix: x}}}}]}}"
    found = findings(virtual(", ".join([route] * 400)))
    assert len(found) == 2 * (MAX_PROBLEMS + 1)
    assert found[-2:] == ["error : and 300 more errors", "error : and 700 more names of what is not there"]


def test_warnings_crowd_out_no_error() -> None:
    hosts = ", ".join(f"h{number}.example.com" for number in range(MAX_PROBLEMS // 2))
    match = "{destinationSubnets: [10.0.0.0/8], gateways: [edge]}"
    tcp = f"{{match: [{match}], route: [{{destination: {{host: ratings}}}}]}}"
    found = findings(
        BOOKINFO
        + resource("VirtualService", f"{{hosts: [{hosts}], tcp: [{', '.join([tcp] * 100)}], http: [{{route: []}}]}}")
    )
    assert any(item.startswith("warning : and") for item in found)
    assert "error spec.http[0]: a route needs one of route, redirect and directResponse: it has none" in found


def test_similar_names_are_looked_for_only_so_often() -> None:
    routes = ", ".join(["{route: [{destination: {host: ratngs}}]}"] * (MAX_HINTS + 5))
    found = [item for item in findings(virtual(routes)) if "no service ratngs" in item]
    assert len(found) == MAX_HINTS + 5
    assert sum("did you mean ratings?" in item for item in found) == MAX_HINTS
