"""An app's probes, led through its sidecar: what is rewritten, what stays, and that a sidecar would take it."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from pymesh.app_probes import VARIABLE, AppProbe, GrpcCheck, HttpCheck, TcpCheck, parse
from pymesh.errors import ConfigError
from pymesh_controlplane.injector.containers import InjectionConfig, Manifest
from pymesh_controlplane.injector.inject import inject, inject_document

CONFIG = InjectionConfig(inject_by_default=True)
REWRITE = "sidecar.istio.io/rewriteAppHTTPProbers"


def pod(*containers: Manifest, annotations: dict[str, str] | None = None, **spec: Any) -> Manifest:
    metadata = {"name": "reviews", "annotations": annotations or {}}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": list(containers), **spec}}


def app(name: str = "app", **fields: Any) -> Manifest:
    return {"name": name, "ports": [{"name": "web", "containerPort": 9080}], **fields}


def asked(result: Manifest, sidecar: str = "pymesh-proxy") -> dict[str, AppProbe]:
    """What the sidecar of an injected pod is told to ask, read as it reads it."""
    [container] = [c for c in result["spec"]["initContainers"] if c["name"] == sidecar]
    values = [variable["value"] for variable in container["env"] if variable["name"] == VARIABLE]
    return parse(values[0]) if values else {}


def found(result: Manifest, name: str) -> Manifest:
    spec = result["spec"]
    return next(c for c in [*spec["containers"], *spec["initContainers"]] if c["name"] == name)


def test_probes_of_every_kind_ask_the_sidecar_and_keep_their_other_fields() -> None:
    headers = [{"name": "Host", "value": "books.example"}]
    patience = {"periodSeconds": 7, "failureThreshold": 2, "initialDelaySeconds": 1, "successThreshold": 1}
    original = pod(
        app(
            livenessProbe={"httpGet": {"path": "/live?x=1", "port": "web", "scheme": "HTTPS", "httpHeaders": headers}},
            readinessProbe={"tcpSocket": {"port": 9080}, "timeoutSeconds": 3, **patience},
            startupProbe={"grpc": {"port": 9090, "service": "books"}, "terminationGracePeriodSeconds": 4},
        )
    )
    before = copy.deepcopy(original)
    result = inject(original, config=CONFIG)
    assert original == before
    container = found(result, "app")
    assert container["livenessProbe"] == {"httpGet": {"path": "/app-health/app/livez", "port": 15020}}
    assert container["readinessProbe"] == {
        "httpGet": {"path": "/app-health/app/readyz", "port": 15020},
        "timeoutSeconds": 3,
        **patience,
    }
    assert container["startupProbe"] == {
        "httpGet": {"path": "/app-health/app/startupz", "port": 15020},
        "terminationGracePeriodSeconds": 4,
    }
    assert asked(result) == {
        "/app-health/app/livez": AppProbe(HttpCheck(9080, "/live?x=1", True, (("Host", "books.example"),))),
        "/app-health/app/readyz": AppProbe(TcpCheck(9080), 3),
        "/app-health/app/startupz": AppProbe(GrpcCheck(9090, "books")),
    }


def test_each_container_that_stays_has_its_own_and_ports_are_looked_up_in_it() -> None:
    probe = {"readinessProbe": {"httpGet": {"port": "web"}}}
    other = {"name": "other", "ports": [{"name": "web", "containerPort": 7000}], **probe}
    logs = {"name": "logs", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": "5140"}}}
    result = inject(pod(app(**probe), other, initContainers=[logs]), config=CONFIG)
    assert asked(result) == {
        "/app-health/app/readyz": AppProbe(HttpCheck(9080)),
        "/app-health/other/readyz": AppProbe(HttpCheck(7000)),
        "/app-health/logs/startupz": AppProbe(TcpCheck(5140)),
    }


def test_init_containers_that_run_before_the_sidecar_are_asked_as_their_author_wrote() -> None:
    probe = {"tcpSocket": {"port": 5140}}
    hook = {"postStart": {"httpGet": {"path": "/", "port": 5140}}}
    logs = {"name": "logs", "restartPolicy": "Always", "startupProbe": probe, "livenessProbe": probe, "lifecycle": hook}
    native = inject(pod(app(readinessProbe=probe), initContainers=[logs]), config=CONFIG)
    assert found(native, "logs")["startupProbe"] == {"httpGet": {"path": "/app-health/logs/startupz", "port": 15020}}
    older = replace(CONFIG, native_sidecars=False)
    result = inject(native, config=older)
    assert found(result, "logs") == logs
    assert found(result, "app")["readinessProbe"] == {"httpGet": {"path": "/app-health/app/readyz", "port": 15020}}
    [variable] = [each for each in found(result, "pymesh-proxy")["env"] if each["name"] == VARIABLE]
    assert list(parse(variable["value"])) == ["/app-health/app/readyz"]
    assert inject(result, config=older) == result


@pytest.mark.parametrize(
    "probe",
    [
        {"exec": {"command": ["true"]}},
        {"httpGet": {"port": 9080, "host": "10.0.0.1"}},
        {"tcpSocket": {"port": 9080, "host": "10.0.0.1"}},
        {"httpGet": {"port": 15021, "path": "/healthz/ready"}},
        {"tcpSocket": {"port": 15001}},
    ],
)
def test_what_is_not_the_sidecars_to_ask_stays(probe: Manifest) -> None:
    result = inject(pod(app(livenessProbe=probe, lifecycle={"preStop": probe})), config=CONFIG)
    assert found(result, "app")["livenessProbe"] == probe
    assert found(result, "app")["lifecycle"] == {"preStop": probe}
    assert asked(result) == {}


def test_http_hooks_have_as_long_as_the_pods_end() -> None:
    hooks = {"postStart": {"httpGet": {"port": "web", "path": "/warm"}}, "preStop": {"httpGet": {"port": 81}}}
    result = inject(pod(app(lifecycle=hooks), terminationGracePeriodSeconds=90), config=CONFIG)
    assert found(result, "app")["lifecycle"] == {
        "postStart": {"httpGet": {"path": "/app-lifecycle/app/poststartz", "port": 15020}},
        "preStop": {"httpGet": {"path": "/app-lifecycle/app/prestopz", "port": 15020}},
    }
    assert asked(result) == {
        "/app-lifecycle/app/poststartz": AppProbe(HttpCheck(9080, "/warm"), 90),
        "/app-lifecycle/app/prestopz": AppProbe(HttpCheck(81), 90),
    }


def test_exec_hooks_and_pauses_stay() -> None:
    hooks = {"postStart": {"exec": {"command": ["a"]}}, "preStop": {"sleep": {"seconds": 1}}}
    assert found(inject(pod(app(lifecycle=hooks)), config=CONFIG), "app")["lifecycle"] == hooks


def test_the_annotations_of_istio() -> None:
    probe = {"httpGet": {"port": 80, "path": "/"}}
    result = inject(pod(app(livenessProbe=probe), annotations={REWRITE: "false"}), config=CONFIG)
    assert found(result, "app")["livenessProbe"] == probe
    assert asked(result) == {}
    moved = inject(pod(app(livenessProbe=probe), annotations={"status.sidecar.istio.io/port": "15030"}), config=CONFIG)
    assert found(moved, "app")["livenessProbe"]["httpGet"]["port"] == 15030
    init, proxy = (found(moved, name)["command"] for name in ("pymesh-init", "pymesh-proxy"))
    assert proxy[proxy.index("--status-port") + 1] == "15030"
    assert "15030" in init[init.index("-d") + 1].split(",")
    with pytest.raises(ConfigError, match="not supported"):
        inject(pod(app(), annotations={"readiness.status.sidecar.istio.io/applicationPorts": "1"}), config=CONFIG)


def test_the_agent_asks_beside_an_envoy() -> None:
    probed = pod(app(livenessProbe={"tcpSocket": {"port": 80}}), annotations={"sidecar.pymesh.io/proxy": "envoy"})
    result = inject(probed, config=CONFIG)
    assert asked(result, "pymesh-agent") == {"/app-health/app/livez": AppProbe(TcpCheck(80))}


@pytest.mark.parametrize(
    ("probe", "path", "words"),
    [
        ({"httpGet": {"port": "nope"}}, "livenessProbe.httpGet.port", "no port of the name"),
        ({"httpGet": {"port": 0}}, "livenessProbe.httpGet.port", "whole number"),
        ({"httpGet": {}}, "livenessProbe.httpGet.port", "whole number"),
        ({"httpGet": {"port": 1, "path": 3}}, "livenessProbe.httpGet.path", "a text"),
        ({"httpGet": {"port": 1, "scheme": "GOPHER"}}, "livenessProbe.httpGet.scheme", "HTTP or HTTPS"),
        ({"httpGet": "x"}, "livenessProbe.httpGet", "a mapping"),
        ({"grpc": {"port": 1}, "timeoutSeconds": "3"}, "livenessProbe.timeoutSeconds", "whole number"),
        (
            {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": "c"}]}},
            "livenessProbe.httpGet.httpHeaders[0].name",
            "header",
        ),
        ("x", "livenessProbe", "a mapping"),
    ],
)
def test_what_a_sidecar_would_not_take_is_refused_where_it_stands(probe: object, path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        inject_document(pod(app(livenessProbe=probe)), config=CONFIG)
    assert caught.value.path == f"spec.containers[0].{path}"


def test_a_second_injection_finds_what_the_first_has_put_away() -> None:
    probes = {"readinessProbe": {"httpGet": {"path": "/", "port": "web"}}, "startupProbe": {"grpc": {"port": 9090}}}
    once = inject(pod(app(**probes)), config=CONFIG)
    assert json.dumps(inject(once, config=CONFIG)) == json.dumps(once)
    once["metadata"]["annotations"][REWRITE] = "false"
    again = found(inject(once, config=CONFIG), "app")
    assert again["readinessProbe"] == {"httpGet": {"path": "/", "port": 9080}}
    assert again["startupProbe"] == {"grpc": {"port": 9090}}


def test_a_variable_that_somebody_has_broken_is_refused() -> None:
    once = inject(pod(app(readinessProbe={"tcpSocket": {"port": 80}})), config=CONFIG)
    proxy = found(once, "pymesh-proxy")
    next(variable for variable in proxy["env"] if variable["name"] == VARIABLE)["value"] = '{"/etc/passwd": {}}'
    with pytest.raises(ConfigError, match="not a path of the form"):
        inject(once, config=CONFIG)
