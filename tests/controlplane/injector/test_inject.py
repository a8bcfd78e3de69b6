"""inject(pod): who gets a sidecar, what is added, and what is refused."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh import names
from pymesh.errors import ConfigError
from pymesh_controlplane.injector.containers import DEFAULT_RESOURCES, InjectionConfig, Manifest
from pymesh_controlplane.injector.inject import decide, inject, inject_document
from pymesh_controlplane.injector.settings import ANNOTATION_STATUS, SUPPORTED
from pymesh_controlplane.injector.workload import workload_of
from pymesh_proxy import options as proxy_options
from pymesh_proxy.redirect import __main__ as redirect

CONFIG = InjectionConfig(inject_by_default=True)
OPT_IN = InjectionConfig()
INTERCEPTION_MODE = "sidecar.istio.io/interceptionMode"


def pod(**metadata: object) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reviews", **metadata},
        "spec": {"containers": [{"name": "app", "image": "reviews:1", "ports": [{"containerPort": 9080}]}]},
    }


def annotated(**annotations: str) -> Manifest:
    """A pod with these annotations; their prefix goes without saying."""
    names_of = {name.rpartition("/")[2]: name for name in SUPPORTED} | {"interceptionMode": INTERCEPTION_MODE}
    return pod(annotations={names_of[name]: value for name, value in annotations.items()})


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def container(result: Manifest, name: str) -> Manifest:
    spec = result["spec"]
    [found] = [c for c in [*spec.get("initContainers", []), *spec["containers"]] if c["name"] == name]
    return dict(found)


def option(command: list[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


# --- what is added -------------------------------------------------------------------------------------------------


def test_a_plain_pod_gets_the_redirect_the_sidecar_and_its_volumes() -> None:
    result = inject(pod(labels={"app": "reviews", "version": "v1"}), config=CONFIG)
    spec = result["spec"]
    assert [c["name"] for c in spec["initContainers"]] == ["pymesh-init", "pymesh-proxy"]
    assert [c["name"] for c in spec["containers"]] == ["app"]
    assert container(result, "pymesh-init")["command"] == [
        "pymesh-init", "-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "15090,15021,15020",
    ]  # fmt: skip
    assert container(result, "pymesh-proxy")["command"][:5] == [
        "pymesh-proxy", "--listen", "15001", "--discovery", "pilot.pymesh-system.svc:15012",
    ]  # fmt: skip
    assert result["metadata"]["labels"] == {
        "app": "reviews",
        "version": "v1",
        "security.istio.io/tlsMode": "istio",
        "service.istio.io/canonical-name": "reviews",
        "service.istio.io/canonical-revision": "v1",
    }
    assert json.loads(result["metadata"]["annotations"][ANNOTATION_STATUS]) == {
        "initContainers": ["pymesh-init", "pymesh-proxy"],
        "volumes": ["istio-token", "istiod-ca-cert", "istio-podinfo", "pymesh-run"],
    }


def test_the_sidecar_runs_without_privileges_and_the_redirect_with_two() -> None:
    result = inject(pod(), config=CONFIG)
    proxy = container(result, "pymesh-proxy")["securityContext"]
    assert (proxy["runAsUser"], proxy["runAsGroup"], proxy["runAsNonRoot"]) == (1337, 1337, True)
    assert proxy["readOnlyRootFilesystem"] is True
    assert proxy["capabilities"] == {"drop": ["ALL"]}
    init = container(result, "pymesh-init")["securityContext"]
    assert (init["runAsUser"], init["runAsNonRoot"]) == (0, False)
    assert init["capabilities"] == {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}
    for own in (proxy, init):
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_redirect_can_write_its_lock_and_nothing_else() -> None:
    result = inject(pod(), config=CONFIG)
    init = container(result, "pymesh-init")
    [mount] = init["volumeMounts"]
    [lock] = init["env"]
    assert lock == {"name": "XTABLES_LOCKFILE", "value": f"{mount['mountPath']}/xtables.lock"}
    assert {"name": mount["name"], "emptyDir": {}} in result["spec"]["volumes"]


def test_the_environment_and_files_are_those_of_the_contract() -> None:
    result = inject(pod(), config=InjectionConfig(inject_by_default=True, cluster_id="c1", trust_domain="example.org"))
    proxy = container(result, "pymesh-proxy")
    fields = {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in proxy["env"] if "valueFrom" in e}
    values = {e["name"]: e["value"] for e in proxy["env"] if "value" in e}
    assert fields == {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "INSTANCE_IP": "status.podIP",
        "SERVICE_ACCOUNT": "spec.serviceAccountName",
    }
    assert values == {"WORKLOAD_NAME": "reviews", "CLUSTER_ID": "c1", "TRUST_DOMAIN": "example.org"}
    mounts = {m["name"]: m["mountPath"] for m in proxy["volumeMounts"]}
    volumes = {v["name"]: v for v in result["spec"]["volumes"]}
    assert mounts.keys() == volumes.keys() - {"pymesh-run"}
    [token] = volumes["istio-token"]["projected"]["sources"]
    assert f"{mounts['istio-token']}/{token['serviceAccountToken']['path']}" == names.TOKEN_PATH
    assert token["serviceAccountToken"]["audience"] == names.TOKEN_AUDIENCE
    assert f"{mounts['istiod-ca-cert']}/root-cert.pem" == names.ROOT_CERT_PATH
    [labels] = volumes["istio-podinfo"]["downwardAPI"]["items"]
    assert f"{mounts['istio-podinfo']}/{labels['path']}" == names.POD_LABELS_PATH
    assert proxy["readinessProbe"]["httpGet"] == {"path": "/healthz/ready", "port": 15021}


def test_an_envoy_pod_gets_an_agent_an_envoy_and_the_split_redirect() -> None:
    result = inject(annotated(proxy="envoy"), config=CONFIG)
    assert [c["name"] for c in result["spec"]["initContainers"]] == ["pymesh-init", "pymesh-agent", "envoy"]
    assert option(container(result, "pymesh-init")["command"], "-z") == "15006"
    agent, envoy = container(result, "pymesh-agent"), container(result, "envoy")
    bootstrap = option(agent["command"], "--envoy-bootstrap")
    assert "--agent" in agent["command"]
    assert bootstrap is not None
    assert f"envoy -c {bootstrap} --disable-hot-restart --concurrency 1" in envoy["command"][-1]
    agent_mounts = {m["mountPath"]: m["name"] for m in agent["volumeMounts"]}
    envoy_mounts = {m["mountPath"]: m["name"] for m in envoy["volumeMounts"]}
    for path in (bootstrap.rpartition("/")[0], names.SDS_SOCKET_PATH.rpartition("/")[0]):
        assert agent_mounts[path] == envoy_mounts[path]
        assert {"name": envoy_mounts[path], "emptyDir": {}} in result["spec"]["volumes"]
    assert "readinessProbe" in envoy
    assert "readinessProbe" not in agent
    # Envoy never sees the token or the key's way to citadel.
    assert "istio-token" not in envoy_mounts.values()


def test_existing_containers_volumes_and_unknown_fields_are_kept_as_they_are() -> None:
    original = pod(labels={"x": "y"}, annotations={"team": "books"})
    original["spec"].update(
        initContainers=[{"name": "migrate", "image": "m"}],
        volumes=[{"name": "data", "emptyDir": {}}],
        nodeSelector={"disk": "ssd"},
        somethingNew={"deep": [1, 2, {"three": None}]},
    )
    before = copy.deepcopy(original)
    result = inject(original, config=CONFIG)
    assert original == before
    # The sidecar comes first: the pod's own init containers have their network through it.
    assert [c["name"] for c in result["spec"]["initContainers"]] == ["pymesh-init", "pymesh-proxy", "migrate"]
    result["metadata"]["annotations"].pop(ANNOTATION_STATUS)
    for name in ("scrape", "port", "path"):
        del result["metadata"]["annotations"][f"prometheus.io/{name}"]
    for label in [name for name in result["metadata"]["labels"] if "istio.io" in name]:
        del result["metadata"]["labels"][label]
    del result["spec"]["initContainers"][:2]
    del result["spec"]["volumes"][1:]
    assert canonical(result) == canonical(before)


def test_prometheus_is_told_where_the_sidecars_metrics_are() -> None:
    found = inject(pod(), config=CONFIG)["metadata"]["annotations"]
    assert {name: value for name, value in found.items() if name.startswith("prometheus.io/")} == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "15090",
        "prometheus.io/path": "/stats/prometheus",
    }


@pytest.mark.parametrize(
    "own", [{"prometheus.io/scrape": "false"}, {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}]
)
def test_what_a_pod_says_itself_about_scraping_stands(own: dict[str, str]) -> None:
    found = inject(pod(annotations=own), config=CONFIG)["metadata"]["annotations"]
    assert {name: value for name, value in found.items() if name.startswith("prometheus.io/")} == own


@pytest.mark.parametrize(
    ("labels", "name", "revision"),
    [
        ({}, "reviews", "latest"),
        ({"app": "a", "version": "v2"}, "a", "v2"),
        ({"app": "a", "app.kubernetes.io/name": "b", "app.kubernetes.io/version": "3"}, "b", "3"),
        ({"service.istio.io/canonical-name": "c", "service.istio.io/canonical-revision": "r"}, "c", "r"),
    ],
)
def test_canonical_service_comes_from_the_labels_and_else_from_the_workload(
    labels: dict[str, str], name: str, revision: str
) -> None:
    result = inject(pod(labels=labels), config=CONFIG)["metadata"]["labels"]
    assert result["service.istio.io/canonical-name"] == name
    assert result["service.istio.io/canonical-revision"] == revision


def test_a_pod_that_says_it_speaks_no_mtls_is_believed() -> None:
    result = inject(pod(labels={"security.istio.io/tlsMode": "disabled"}), config=CONFIG)
    assert result["metadata"]["labels"]["security.istio.io/tlsMode"] == "disabled"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"name": "solo"}, "solo"),
        ({"generateName": "batch-"}, "batch"),
        (
            {
                "name": "web-6f7-x",
                "labels": {"pod-template-hash": "6f7"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-6f7", "controller": True}],
            },
            "web",
        ),
        ({"name": "db-0", "ownerReferences": [{"kind": "StatefulSet", "name": "db", "controller": True}]}, "db"),
        ({"name": "p", "ownerReferences": [{"kind": "Thing", "name": "t", "controller": False}, "rubbish"]}, "p"),
        ({}, "unknown"),
    ],
)
def test_the_workload_is_what_made_the_pod(metadata: Manifest, expected: str) -> None:
    assert workload_of(metadata) == expected


# --- annotations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "flag", "expected"),
    [
        ({"includeInboundPorts": "80, 443"}, "-b", "80,443"),
        ({"includeInboundPorts": ""}, "-b", ""),
        ({"includeInboundPorts": "*"}, "-b", "*"),
        ({"excludeInboundPorts": "8081,15021"}, "-d", "15090,15021,15020,8081"),
        ({"includeOutboundPorts": "6379"}, "-q", "6379"),
        ({"excludeOutboundPorts": "3306,05432"}, "-o", "3306,5432"),
        ({"includeOutboundIPRanges": "10.0.0.0/8,172.16.0.0/12"}, "-i", "10.0.0.0/8,172.16.0.0/12"),
        ({"excludeOutboundIPRanges": "169.254.169.254"}, "-x", "169.254.169.254/32"),
    ],
)
def test_traffic_annotations_become_options_of_the_redirect(
    annotations: dict[str, str], flag: str, expected: str
) -> None:
    command = container(inject(annotated(**annotations), config=CONFIG), "pymesh-init")["command"]
    assert option(command, flag) == expected


def test_image_log_level_and_resources_follow_the_annotations() -> None:
    result = inject(
        annotated(proxyImage="local/proxy:2", logLevel="debug", proxyCPU="200m", proxyMemoryLimit="1Gi"), config=CONFIG
    )
    proxy = container(result, "pymesh-proxy")
    assert proxy["image"] == container(result, "pymesh-init")["image"] == "local/proxy:2"
    assert option(proxy["command"], "--log-level") == "debug"
    # Saying something about resources says everything: no default limit below a wanted request.
    assert proxy["resources"] == {"requests": {"cpu": "200m"}, "limits": {"memory": "1Gi"}}
    defaults = container(inject(pod(), config=CONFIG), "pymesh-proxy")["resources"]
    assert {(kind, what): q for kind, pairs in defaults.items() for what, q in pairs.items()} == DEFAULT_RESOURCES


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"includeInboundPorts": "80;443"}, "ports from 1 to 65535"),
        ({"excludeInboundPorts": "0"}, "ports from 1 to 65535"),
        ({"excludeOutboundPorts": "70000"}, "ports from 1 to 65535"),
        ({"excludeOutboundPorts": "80,,81"}, "ports from 1 to 65535"),
        ({"excludeInboundPorts": "*"}, "ports from 1 to 65535"),
        ({"includeOutboundPorts": "*"}, "ports from 1 to 65535"),
        ({"includeOutboundIPRanges": "10.0.0.1/8"}, "host bits zero"),
        ({"excludeOutboundIPRanges": "fd00::/8"}, "IPv4 ranges"),
        ({"excludeOutboundIPRanges": "10.0.0.0/8 -j ACCEPT"}, "IPv4 ranges"),
        ({"proxyCPU": "lots"}, "quantity"),
        ({"proxyMemoryLimit": "-1Gi"}, "quantity"),
        ({"proxyImage": "a b"}, "image"),
        ({"logLevel": "loud"}, "choose one of debug"),
        ({"proxy": "nginx"}, "choose one of pymesh, envoy"),
        ({"nativeSidecar": "yes"}, '"true" or "false"'),
        ({"rewriteAppHTTPProbers": "no"}, '"true" or "false"'),
        ({"periodSeconds": "0"}, "whole number from 1"),
        ({"failureThreshold": "-1"}, "whole number from 1"),
        ({"port": "15021"}, "one port"),
        ({"port": "80,81"}, "one port"),
        ({"interceptionMode": "TPROXY"}, "not supported; supported are"),
    ],
)
def test_annotations_that_make_no_sense_are_refused_where_they_stand(annotations: dict[str, str], words: str) -> None:
    document = annotated(**annotations)
    [name] = document["metadata"]["annotations"]
    with pytest.raises(ConfigError) as caught:
        inject_document(document, config=CONFIG)
    assert words in caught.value.problem
    assert caught.value.path == f"metadata.annotations[{name}]"
    assert caught.value.resource == "Pod default/reviews"


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"proxy": "envoy", "logLevel": "debug"},
        {"port": "15030"},
        {"includeInboundPorts": "", "excludeInboundPorts": "81", "includeOutboundPorts": ""},
        {
            "includeInboundPorts": "80,81", "includeOutboundPorts": "6379", "excludeOutboundPorts": "25",
            "includeOutboundIPRanges": "10.0.0.0/8", "excludeOutboundIPRanges": "10.1.0.0/16",
        },
    ],
)  # fmt: skip
def test_the_commands_are_understood_by_the_programs_they_are_for(
    annotations: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = inject(annotated(**annotations), config=CONFIG)
    init = container(result, "pymesh-init")["command"]
    assert redirect.main([*init[1:], "--dry-run"]) == 0
    assert "15001" in capsys.readouterr().out
    proxy = container(result, "pymesh-agent" if "proxy" in annotations else "pymesh-proxy")["command"]
    options = proxy_options.parse(proxy[1:])
    assert options.discovery == ("pilot.pymesh-system.svc", 15012)
    assert options.agent is ("proxy" in annotations)
    assert options.status_port == int(annotations.get("port", "15020"))
    assert options.log_level == annotations.get("logLevel", "info")


# --- who gets a sidecar --------------------------------------------------------------------------------------------

INJECT = "sidecar.istio.io/inject"


@pytest.mark.parametrize(
    ("namespace", "label", "annotation", "config", "expected"),
    [
        ("enabled", None, None, OPT_IN, True),
        ("disabled", None, None, CONFIG, False),
        (None, None, None, OPT_IN, False),
        (None, None, None, CONFIG, True),
        ("enabled", "false", None, OPT_IN, False),
        (None, "true", None, OPT_IN, True),
        ("disabled", "true", None, OPT_IN, False),
        ("enabled", None, "false", OPT_IN, False),
        (None, None, "true", OPT_IN, True),
        ("enabled", "true", "false", OPT_IN, True),
        ("enabled", "false", "true", OPT_IN, False),
    ],
)
def test_namespace_then_label_then_annotation_decide(
    namespace: str | None, label: str | None, annotation: str | None, config: InjectionConfig, expected: bool
) -> None:
    document = pod(labels={INJECT: label} if label else {}, annotations={INJECT: annotation} if annotation else {})
    namespace_labels = {"istio-injection": namespace} if namespace else {}
    decision = decide(document, config, namespace_labels)
    assert decision.inject is expected
    assert decision.reason
    result = inject(document, config=config, namespace_labels=namespace_labels)
    assert (result is not document) is expected


def test_a_pod_on_the_hosts_network_is_left_alone_whatever_it_says() -> None:
    document = pod(labels={INJECT: "true"})
    document["spec"]["hostNetwork"] = True
    assert inject(document, config=CONFIG, namespace_labels={"istio-injection": "enabled"}) is document


@pytest.mark.parametrize("place", ["labels", "annotations"])
def test_a_wish_that_cannot_be_read_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=rf"metadata\.{place}\[{INJECT}\]"):
        inject(pod(**{place: {INJECT: "no"}}), config=CONFIG)
    with pytest.raises(ConfigError, match="put False in quotes"):
        inject(pod(**{place: {INJECT: False}}), config=CONFIG)


def test_a_namespace_label_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="write enabled or disabled"):
        inject(pod(), config=CONFIG, namespace_labels={"istio-injection": "true"})


# --- what cannot live beside a sidecar -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"containers": []}, "spec.containers"),
        ({"containers": {"name": "app"}}, "spec.containers"),
        ({"containers": [{"image": "x"}]}, "spec.containers[0]"),
        ({"containers": ["app"]}, "spec.containers[0]"),
        ({"containers": [{"name": "pymesh-proxy"}]}, "spec.containers[0].name"),
        ({"containers": [{"name": "a"}], "initContainers": [{"name": "pymesh-init"}]}, "spec.initContainers[0].name"),
        ({"containers": [{"name": "a"}], "volumes": [{"name": "istio-token"}]}, "spec.volumes[0].name"),
        (
            {"containers": [{"name": "a", "securityContext": {"runAsUser": 1337}}]},
            "spec.containers[0].securityContext.runAsUser",
        ),
        ({"containers": [{"name": "a"}], "securityContext": {"runAsUser": 1337}}, "spec.securityContext.runAsUser"),
        (
            {"containers": [{"name": "a", "ports": [{"containerPort": 15001}]}]},
            "spec.containers[0].ports[0].containerPort",
        ),
    ],
)
def test_pods_that_cannot_have_a_sidecar_are_refused_where_they_stand(spec: Manifest, path: str) -> None:
    deployment = {"kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": spec}}}
    with pytest.raises(ConfigError) as caught:
        inject_document(deployment, config=CONFIG)
    assert caught.value.path == f"spec.template.{path}"
    assert caught.value.resource == "Deployment default/d"


@pytest.mark.parametrize("status", ["rubbish", "[]", '{"containers": 3}', "[" * 100_000])
def test_a_status_that_is_not_the_injectors_is_refused(status: str) -> None:
    with pytest.raises(ConfigError, match="written by the injector"):
        inject(pod(annotations={ANNOTATION_STATUS: status}), config=CONFIG)


# --- documents -----------------------------------------------------------------------------------------------------

TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "app"}]}}


@pytest.mark.parametrize(
    "kind", ["Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job"]
)
def test_every_kind_with_a_template_is_injected_in_its_template(kind: str) -> None:
    document = {"kind": kind, "metadata": {"name": "d"}, "spec": {"replicas": 2, "template": TEMPLATE}}
    before = copy.deepcopy(document)
    result = inject_document(document, config=CONFIG)
    assert document == before
    assert result["spec"]["replicas"] == 2
    assert len(result["spec"]["template"]["spec"]["initContainers"]) == 2
    env = container(result["spec"]["template"], "pymesh-proxy")["env"]
    assert {"name": "WORKLOAD_NAME", "value": "d"} in env


def test_a_cron_job_is_injected_two_templates_down() -> None:
    template = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "OnFailure"}}
    document = {"kind": "CronJob", "metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}
    result = inject_document(document, config=CONFIG)
    injected = result["spec"]["jobTemplate"]["spec"]["template"]
    assert [c["name"] for c in injected["spec"]["initContainers"]] == ["pymesh-init", "pymesh-proxy"]


def test_a_list_is_looked_into_and_other_kinds_are_returned_as_they_are() -> None:
    service = {"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    document = {"apiVersion": "v1", "kind": "List", "items": [service, {"kind": "List", "items": [pod()]}]}
    told: list[str] = []
    result = inject_document(document, config=CONFIG, report=lambda resource, _: told.append(resource))
    assert result["items"][0] is service
    assert len(result["items"][1]["items"][0]["spec"]["initContainers"]) == 2
    assert told == ["Pod default/reviews"]
    with pytest.raises(ConfigError, match="a list of objects"):
        inject_document({"kind": "List", "items": ["x"]}, config=CONFIG)


def test_the_documents_own_namespace_decides() -> None:
    namespaces = {"mesh": {"istio-injection": "enabled"}, "plain": {}}
    inside, outside = pod(namespace="mesh"), pod(namespace="plain")
    assert inject_document(inside, config=OPT_IN, namespaces=namespaces) is not inside
    assert inject_document(outside, config=OPT_IN, namespaces=namespaces) is outside
    assert inject_document(pod(), config=OPT_IN, namespaces=namespaces, namespace="mesh") != pod()


def test_a_template_that_is_missing_is_refused_or_left_alone() -> None:
    empty: Manifest = {"kind": "Deployment", "metadata": {"name": "d"}}
    assert inject_document(empty, config=OPT_IN) is empty
    with pytest.raises(ConfigError, match="at least one container"):
        inject_document(empty, config=CONFIG)


# --- idempotence ---------------------------------------------------------------------------------------------------

_WORD = st.text("abcdefgh-", min_size=1, max_size=8)
_VALUES = {
    "sidecar.pymesh.io/proxy": st.sampled_from(["pymesh", "envoy"]),
    "sidecar.istio.io/nativeSidecar": st.sampled_from(["true", "false"]),
    "sidecar.istio.io/rewriteAppHTTPProbers": st.sampled_from(["true", "false"]),
    "sidecar.istio.io/logLevel": st.sampled_from(["debug", "info"]),
    "traffic.sidecar.istio.io/excludeInboundPorts": st.lists(st.integers(1, 65535), max_size=3).map(
        lambda ports: ",".join(map(str, ports))
    ),
    "sidecar.istio.io/proxyMemory": st.sampled_from(["64Mi", "1G"]),
}
_ACTIONS = st.one_of(
    st.just({"exec": {"command": ["true"]}}),
    st.just({"tcpSocket": {"port": 8080}}),
    st.builds(lambda port: {"httpGet": {"port": port, "path": "/"}}, st.sampled_from(["web", 8080, "8081", 15021])),
    st.builds(lambda service: {"grpc": {"port": 8080, "service": service}}, st.sampled_from([None, "", "books"])),
)
_PROBE_FIELDS = st.dictionaries(st.sampled_from(["livenessProbe", "readinessProbe", "startupProbe"]), _ACTIONS)


def _containers(named: list[str]) -> st.SearchStrategy[list[Manifest]]:
    ports = [{"name": "web", "containerPort": 8080}]
    return st.tuples(*(_PROBE_FIELDS.map(lambda p, n=n: {"name": f"c{n}c", "ports": ports, **p}) for n in named)).map(
        list
    )


_PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "name": _WORD,
                "labels": st.dictionaries(st.sampled_from(["app", "version", "x"]), _WORD),
                "annotations": st.fixed_dictionaries({}, optional=_VALUES),
            },
        ),
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(_WORD, min_size=1, unique=True).flatmap(_containers)},
            optional={
                "restartPolicy": st.sampled_from(["Always", "Never"]),
                "initContainers": st.just([{"name": "setup"}]),
                "volumes": st.lists(_WORD, unique=True).map(lambda ns: [{"name": f"v{n}"} for n in ns]),
                "hostNetwork": st.booleans(),
            },
        ),
    }
)


@given(_PODS)
def test_injecting_twice_is_injecting_once(document: Manifest) -> None:
    before = canonical(document)
    once = inject(document, config=CONFIG, workload="w")
    assert canonical(document) == before
    assert canonical(inject(once, config=CONFIG, workload="w")) == canonical(once)


def test_a_second_injection_brings_the_first_up_to_date() -> None:
    once = inject(pod(), config=CONFIG)
    once["metadata"]["annotations"]["sidecar.pymesh.io/proxy"] = "envoy"
    twice = inject(once, config=InjectionConfig(inject_by_default=True, proxy_image="new:2"))
    assert canonical(twice) == canonical(
        inject(annotated(proxy="envoy"), config=InjectionConfig(inject_by_default=True, proxy_image="new:2"))
    )


def test_the_error_for_an_unknown_annotation_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        inject(pod(annotations={"proxy.istio.io/config": "{}"}), config=CONFIG)
    assert all(name in caught.value.problem for name in SUPPORTED)
