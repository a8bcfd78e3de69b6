"""Files to resources: everything wrong is said at once, each with its place and with what to write instead."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.resources.documents import MAX_DEPTH
from pymesh.resources.istio.peer_authentication import PeerAuthentication
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.kubernetes import Pod, Service
from pymesh.resources.parse import Refused, observed, parse
from pymesh.resources.resource import Key, Positions, holds

VIRTUAL = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v1}
      weight: 10
"""


def errors(text: str) -> list[str]:
    return [str(error) for error in parse(text, "f.yaml").errors]


def test_a_resource_knows_who_it_is_and_where_it_was_written() -> None:
    (resource,) = parse(f"# first\n{VIRTUAL}", "f.yaml").resources
    assert resource.key == Key("VirtualService", "default", "reviews")
    assert str(resource.key) == "VirtualService default/reviews"
    assert holds(resource, VirtualService)
    assert resource.value.spec.http[0].route[0].weight == 10
    assert str(resource.positions.at("spec.http[0].route[0].weight")) == "f.yaml:11:7"


def test_all_mistakes_are_told_at_once() -> None:
    text = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: Reviews}
spec:
  hosts: []
  htp: x
  http:
  - route:
    - destination: {host: reviews, port: 80}
      weigth: 10
      weight: "20"
    fault: {abort: {}}
    timeout: 5
    retries: {attempts: -1}
    match:
    - headers: {a: {exact: 1}}
      port: 99999
"""
    who = "VirtualService default/Reviews"
    assert errors(text) == [
        (
            f"f.yaml:3:12: {who}: metadata.name: the text 'Reviews' is not a name of small letters, digits, '-' "
            "and '.', at most 253 characters"
        ),
        f"f.yaml:5:3: {who}: spec.hosts: a list with at least one host is needed",
        f"f.yaml:6:3: {who}: spec.htp: unknown field 'htp' in spec; did you mean 'http'?",
        f"f.yaml:9:36: {who}: spec.http[0].route[0].destination.port: the number 80 is not a group of fields",
        (
            f"f.yaml:10:7: {who}: spec.http[0].route[0].weigth: unknown field 'weigth' in spec.http[0].route[0]; "
            "did you mean 'weight'?"
        ),
        (
            f"f.yaml:11:7: {who}: spec.http[0].route[0].weight: the text '20' is not a whole number, 0 or more: "
            "remove the quotes"
        ),
        f"f.yaml:12:5: {who}: spec.http[0].fault: 'fault' is not supported yet: remove it",
        (
            f"f.yaml:13:5: {who}: spec.http[0].timeout: the number 5 is not a duration with its unit, as in 250ms, 10s "
            "or 1h30m"
        ),
        f"f.yaml:14:15: {who}: spec.http[0].retries.attempts: the number -1 is not a number between 0 and 100",
        (
            f"f.yaml:16:21: {who}: spec.http[0].match[0].headers.a.exact: the number 1 is not text: put it in quotes, "
            'as in "1"'
        ),
        f"f.yaml:17:7: {who}: spec.http[0].match[0].port: the number 99999 is not a port number between 1 and 65535",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kind: Service", "f.yaml:1:1: 'apiVersion' is missing"),
        ("apiVersion: v1", "f.yaml:1:1: 'kind' is missing"),
        ("apiVersion: v1\nkind: 3", "f.yaml:2:1: kind: the number 3 is not text"),
        ("apiVersion: v1\nkind: Servce", "the mesh does not read the kind 'Servce' of 'v1'; did you mean 'Service'?"),
        (
            "apiVersion: v2\nkind: Service",
            "f.yaml:1:1: apiVersion: version 'v2' of Service is unknown: write",
        ),
        ("apiVersion: apps/v1\nkind: Service", "there is no Service in 'apps/v1': write apiVersion: v1"),
        (
            "apiVersion: networking.istio.io/v1\nkind: Sidecar",
            "f.yaml:2:1: kind: Sidecar of networking.istio.io is not supported yet: remove it",
        ),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute", "HTTPRoute of gateway.networking.k8s.io is not"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {}",
            "f.yaml:3:1: Service: metadata.name: 'name' is missing",
        ),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: 1", "the number 1 is not a group of fields"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: {port: 1}}",
            "a group of fields is not a list",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: Clusterip}",
            "the text 'Clusterip' is not one of ClusterIP, ExternalName, LoadBalancer, NodePort; did you mean",
        ),
        ("apiVersion: v1\nkind: List\nitems: 3", "f.yaml:3:1: items of a List is a list of resources"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1, targetPort: true}]}",
            "true is not a port number between 1 and 65535 or text",
        ),
    ],
)
def test_a_mistake_is_named(text: str, sentence: str) -> None:
    (error,) = errors(text)
    assert sentence in error


# Every field of Istio's that is known and not honoured yet, where it may stand.
NOT_YET = [
    ("VirtualService", "{hosts: [a], tcp: [{match: [{sourceSubnet: 10.0.0.0/8}]}]}", "sourceSubnet"),
    *[
        ("VirtualService", f"{{hosts: [a], http: [{{{name}: {{}}}}]}}", name)
        for name in ("fault", "mirror", "mirrors", "mirror_percent", "mirrorPercentage", "corsPolicy", "delegate")
    ],
    ("VirtualService", "{hosts: [a], http: [{match: [{scheme: {exact: http}}]}]}", "scheme"),
    (
        "VirtualService",
        "{hosts: [a], http: [{retries: {attempts: 1, retryRemoteLocalities: true}}]}",
        "retryRemoteLocalities",
    ),
    ("VirtualService", "{hosts: [a], http: [{redirect: {derivePort: FROM_REQUEST_PORT}}]}", "derivePort"),
    *[
        ("DestinationRule", f"{{host: a, trafficPolicy: {{{name}: {{}}}}}}", name)
        for name in ("tunnel", "proxyProtocol")
    ],
    ("DestinationRule", "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {maglev: {}}}}}", "maglev"),
    ("DestinationRule", "{host: a, trafficPolicy: {connectionPool: {tcp: {tcpKeepalive: {}}}}}", "tcpKeepalive"),
    ("DestinationRule", "{host: a, workloadSelector: {}}", "workloadSelector"),
    ("ServiceEntry", "{hosts: [a], workloadSelector: {}}", "workloadSelector"),
    ("ServiceEntry", "{hosts: [a], subjectAltNames: [x]}", "subjectAltNames"),
    ("ServiceEntry", "{hosts: [a], endpoints: [{locality: x}]}", "locality"),
]


@pytest.mark.parametrize(("kind", "spec", "field"), NOT_YET)
def test_a_known_field_without_support_is_refused_by_name_and_not_called_unknown(
    kind: str, spec: str, field: str
) -> None:
    text = f"apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}"
    (error,) = errors(text)
    assert f"'{field}' is not supported yet: remove it" in error
    assert error.startswith("f.yaml:4:")


def test_lists_are_taken_apart_and_keep_their_positions() -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prts: []}}\n"
        "- 3\n"
        "- {apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}}\n"
    )
    parsed = parse(text, "f.yaml")
    assert [str(resource.key) for resource in parsed.resources] == ["Pod x/b"]
    assert [str(error).split(": ")[0] for error in parsed.errors] == ["f.yaml:4:63", "f.yaml:5:3"]
    assert [refused.key for refused in parsed.refused] == [Key("Service", "default", "a"), None]
    assert parsed.anonymous


def test_null_counts_as_not_written() -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: null}\nspec: {clusterIP: null, ports: null}"
    (resource,) = parse(text, "f").resources
    assert holds(resource, Service)
    assert (resource.value.spec.cluster_ip, resource.value.spec.ports) == (None, [])


def test_keys_of_ports_are_numbers() -> None:
    text = (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\n"
        "spec: {portLevelMtls: {8080: {mode: STRICT}, '9090': {}}}"
    )
    (resource,) = parse(text, "f").resources
    assert holds(resource, PeerAuthentication)
    assert {port: mtls.mode for port, mtls in resource.value.spec.port_level_mtls.items()} == {
        8080: "STRICT",
        9090: "UNSET",
    }
    (error,) = errors(text.replace("8080", "http"))
    assert "spec.portLevelMtls.http: the text 'http' is not a port number" in error


def test_a_pod_may_say_what_the_mesh_does_not_read() -> None:
    spec = {"containers": [{"name": "a", "image": "x", "securityContext": {"runAsUser": 1}}], "nodeName": "n"}
    value = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
    (resource,) = parse(json.dumps(value), "f.json").resources
    assert holds(resource, Pod)
    assert resource.raw["spec"] == spec


def test_cluster_wide_kinds_have_no_namespace() -> None:
    (resource,) = parse("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}", "f").resources
    assert resource.key == Key("Namespace", "", "a")


def test_versions_of_istio_are_one() -> None:
    for version in ("v1", "v1beta1", "v1alpha3"):
        (resource,) = parse(VIRTUAL.replace("/v1\n", f"/{version}\n"), "f").resources
        assert resource.api_version == f"networking.istio.io/{version}"


@given(st.data())
def test_a_mutilated_manifest_is_a_resource_or_a_refusal(data: st.DataObject) -> None:
    """Whatever is cut out, put in or doubled: an answer with words, never an exception."""
    text = VIRTUAL
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 20)))
        put = data.draw(
            st.sampled_from(["", "\n", " ", "- ", ": ", "{", "]", "'", "1", "null", "&a ", "*a", text[start:end] * 2])
        )
        text = text[:start] + put + text[end:]
    parsed = parse(text, "f")
    assert all(str(error) for error in parsed.errors)
    assert all(
        holds(resource, VirtualService) for resource in parsed.resources if resource.key.kind == "VirtualService"
    )


def test_the_sidecar_never_loads_msgspec() -> None:
    code = (
        "import sys, pkgutil, importlib, pymesh, pymesh_proxy\n"
        "for package in (pymesh, pymesh_proxy):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.startswith('pymesh.resources') and not module.name.endswith('__main__'):\n"
        "            importlib.import_module(module.name)\n"
        "assert 'msgspec' not in sys.modules, 'msgspec is loaded'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\n", "a\u202eb", "a..b", "a.-b", "", "a" * 254])
@pytest.mark.parametrize("field", ["name", "namespace"])
def test_what_is_no_name_is_refused_in_printable_words(name: str, field: str) -> None:
    metadata = {"name": "a", field: name}
    parsed = parse(json.dumps({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}), "f.yaml")
    assert parsed.resources == ()
    for error in parsed.errors:
        assert str(error).isprintable()
        assert f"metadata.{field}" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        '{"apiVersion": "v1", "kind": "\\u001b[2J", "metadata": {"name": "a"}}',
        '{"apiVersion": "v1\\n", "kind": "Service", "metadata": {"name": "a"}}',
        '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "\\u001b[2J": 1}}',
        '{"a\\u001b": 1, "a\\u001b": 1}',
    ],
)
def test_errors_quote_nothing_that_a_terminal_would_obey(text: str) -> None:
    (error, *_) = parse(text, "f\x1b.yaml").errors
    assert str(error).isprintable()
    assert "\\x1b" in str(error)


@pytest.mark.parametrize("levels", [MAX_DEPTH, 700, 5_000])
def test_an_object_that_is_nested_too_deep_is_refused_by_its_name(levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    metadata = {"name": "web", "namespace": "default"}
    found = observed(
        {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata, "status": value},
        Positions("kubernetes", {}),
    )
    assert isinstance(found, Refused)
    assert found.key == Key("VirtualService", "default", "web")
    (error,) = found.errors
    assert str(error) == f"kubernetes: VirtualService default/web: it is nested deeper than {MAX_DEPTH} levels"
