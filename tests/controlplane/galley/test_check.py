"""What galley refuses and what it only warns of: the words, the field and the place."""

import pytest

from pymesh_controlplane.galley.check import check
from pymesh_controlplane.galley.findings import MAX_HINTS, MAX_PROBLEMS
from pymesh_controlplane.pilot.memory import Memory
from pymesh_controlplane.pilot.model import Severity
from tests.controlplane.pilot.worlds import BOOKINFO, EVERYTHING, pod, service, slice_of, world_of

KINDS = {
    "VirtualService": "networking.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "ServiceEntry": "networking.istio.io/v1",
    "Gateway": "networking.istio.io/v1",
    "PeerAuthentication": "security.istio.io/v1",
}


def resource(kind: str, spec: str, name: str = "x") -> str:
    return f"""
---
apiVersion: {KINDS[kind]}
kind: {kind}
metadata: {{name: {name}, namespace: default}}
spec: {spec}
"""


def findings(text: str) -> list[str]:
    """`<severity> <path>: <sentence>` for every problem in a world."""
    world = world_of(text)
    return [f"{item.severity.value} {item.path}: {item.sentence}" for item in check(world.resources.values(), world)]


def only(text: str) -> str:
    found = findings(text)
    assert len(found) == 1, found
    return found[0]


def virtual(http: str, more: str = "", host: str = "ratings") -> str:
    return BOOKINFO + resource("VirtualService", f"{{hosts: [{host}], http: [{http}]{more}}}")


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


TO = "route: [{destination: {host: ratings}}]"


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        (
            "{route: [{destination: {host: ratings, subset: v1}}]}",
            "error spec.http[0].route[0].destination.subset: no DestinationRule defines subsets of ratings.default",
        ),
        (
            "{route: [{destination: {host: ratings, port: {number: 81}}}]}",
            (
                "error spec.http[0].route[0].destination.port.number: ratings.default.svc.cluster.local "
                "has no port 81; it has 9080"
            ),
        ),
        (
            "{route: [{destination: {host: ratings}, weight: 0}, {destination: {host: reviews}}]}",
            "error spec.http[0].route: the weights add up to 0",
        ),
        ("{}", "error spec.http[0]: a route needs one of route, redirect and directResponse: it has none"),
        (f"{{{TO}, redirect: {{uri: /a}}}}", "it has route and redirect"),
        ("{redirect: {uri: /a}, timeout: 1s}", "error spec.http[0].timeout: 'timeout' has no effect with a redirect"),
        ("{directResponse: {status: 200}, rewrite: {uri: /}}", "'rewrite' has no effect with a directResponse"),
        ("{redirect: {}}", "error spec.http[0].redirect: a redirect to the same place never ends"),
        ("{redirect: {uri: a}}", "error spec.http[0].redirect.uri: a path starts with '/'"),
        ("{redirect: {uri: '/%PREFIX()%'}}", "%PREFIX()% is not supported yet"),
        ("{directResponse: {status: 200, body: {}}}", "a body is one of string and bytes"),
        (
            "{directResponse: {status: 200, body: {bytes: 'a!'}}}",
            "error spec.http[0].directResponse.body.bytes: not base64",
        ),
        (
            f"{{match: [{{uri: {{prefix: a}}}}], {TO}}}",
            "error spec.http[0].match[0].uri.prefix: a path starts with '/'",
        ),
        (f"{{match: [{{uri: {{}}}}], {TO}}}", "uri needs one of exact, prefix and regex"),
        (
            f"{{match: [{{uri: {{regex: '(a'}}}}], {TO}}}",
            "error spec.http[0].match[0].uri.regex: not a pattern of RE2: missing ): (a",
        ),
        (f"{{match: [{{headers: {{x: {{regex: '(?=a)'}}}}}}], {TO}}}", "not a pattern of RE2"),
        (f"{{match: [{{headers: {{x: {{regex: '(.)\\1'}}}}}}], {TO}}}", "not a pattern of RE2"),
        (
            f"{{match: [{{headers: {{x: {{exact: a, prefix: b}}}}}}], {TO}}}",
            "only one of exact, prefix and regex is possible: it has exact and prefix",
        ),
        (f"{{match: [{{headers: {{x: {{prefix: ''}}}}}}], {TO}}}", "an empty prefix says nothing"),
        (f"{{match: [{{headers: {{'a b': {{}}}}}}], {TO}}}", "'a b' is not the name of a header"),
        (f'{{match: [{{headers: {{x: {{exact: "a\\nb"}}}}}}], {TO}}}', "control characters"),
        (f"{{match: [{{uri: {{regex: /a}}, ignoreUriCase: true}}], {TO}}}", "has no effect on a regex"),
        (f"{{{TO}, rewrite: {{}}}}", "nothing is rewritten"),
        (
            f"{{{TO}, rewrite: {{uri: /a, uriRegexRewrite: {{match: a, rewrite: b}}}}}}",
            "only one of uri and uriRegexRewrite",
        ),
        (f"{{{TO}, rewrite: {{uriRegexRewrite: {{match: '(a)', rewrite: '\\2'}}}}}}", "there is no group 2"),
        (
            f"{{{TO}, retries: {{attempts: 1, retryOn: '5xx,gatway-error'}}}}",
            "'gatway-error' is not a reason to retry; did",
        ),
        (f"{{{TO}, retries: {{attempts: 1, retryOn: '99'}}}}", "99 is not a status"),
        (
            f"{{{TO}, headers: {{request: {{set: {{x: '%REQ(a)%'}}}}}}}}",
            "variables such as %REQ(x)% are not supported yet",
        ),
        (f"{{{TO}, headers: {{response: {{set: {{host: a}}}}}}}}", "the host can only be set, in a request"),
        (f"{{{TO}, headers: {{request: {{add: {{'': a}}}}}}}}", "'' is not the name of a header"),
        (
            f"{{match: [{{gateways: [edge]}}], {TO}}}",
            "error spec.http[0].match[0].gateways[0]: there is no Gateway edge",
        ),
        (f"{{{TO}}}, {{{TO}}}", "warning spec.http[1]: no request gets here: spec.http[0] takes them all"),
        (
            (
                "{route: [{destination: {host: ratings}, weight: 1, headers: {request: {set: {a: b}}}}, "
                "{destination: {host: reviews}, weight: 1}]}"
            ),
            "error spec.http[0]: the proxy does not support what this becomes",
        ),
    ],
)
def test_routes(http: str, expected: str) -> None:
    assert expected in only(virtual(http))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (f"{{hosts: ['*'], http: [{{{TO}}}]}}", "error spec.hosts[0]: '*' would route everything"),
        (f"{{hosts: ['a:80'], http: [{{{TO}}}]}}", "error spec.hosts[0]: 'a:80' is not a host"),
        (f"{{hosts: ['a*.b'], http: [{{{TO}}}]}}", "is not a host"),
        (f"{{hosts: [rating], http: [{{{TO}}}]}}", "warning spec.hosts[0]: there is no service rating.default"),
        (
            f"{{hosts: [reviews], http: [{{{TO}}}]}}",
            "warning spec.hosts[0]: reviews is already routed by VirtualService",
        ),
        (
            f"{{hosts: [ratings], gateways: [edge], http: [{{{TO}}}]}}",
            "error spec.gateways[0]: there is no Gateway edge",
        ),
        (
            f"{{hosts: [ratings], exportTo: [.], http: [{{{TO}}}]}}",
            "error spec.exportTo: only exportTo: ['*'] is supported",
        ),
        ("{hosts: [ratings]}", "error spec.http: there is no route"),
    ],
)
def test_virtual_services(spec: str, expected: str) -> None:
    found = findings(BOOKINFO + resource("VirtualService", spec))
    assert any(expected in item for item in found), found


def test_a_port_must_be_said_where_a_service_has_several() -> None:
    text = virtual("{route: [{destination: {host: two}}]}") + "---"
    two = service("two", "[{name: http, port: 1}, {name: http-b, port: 2}]")
    assert "error spec.http[0].route[0].destination.port" in only(text + two)


def test_routes_to_a_service_without_http_are_warned_of() -> None:
    text = resource("VirtualService", "{hosts: [db], http: [{route: [{destination: {host: db}}]}]}")
    assert "no port of db.default.svc.cluster.local speaks HTTP/1.1" in only(
        service("db", "[{name: tcp, port: 1}]") + text
    )


def test_a_gateway_that_is_there_may_be_named() -> None:
    gateway = resource("Gateway", "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}", "edge")
    assert findings(virtual(f"{{{TO}}}", ", gateways: [edge, default/edge, mesh]") + gateway) == []


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
