"""What galley says of VirtualServices: of their hosts, and of where their routes lead."""

import pytest

from tests.controlplane.galley.judged import TO, findings, only, resource, virtual
from tests.controlplane.pilot.worlds import BOOKINFO, service


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
