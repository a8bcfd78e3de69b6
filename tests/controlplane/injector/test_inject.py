"""inject(pod): what is added, what is kept, and that a second time changes nothing."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh import names
from pymesh_controlplane.injector.containers import InjectionConfig, Manifest
from pymesh_controlplane.injector.inject import inject
from pymesh_controlplane.injector.settings import ANNOTATION_STATUS
from tests.controlplane.injector.pods import CONFIG, annotated, canonical, container, option, pod

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


def test_a_pod_that_says_it_speaks_no_mtls_is_believed() -> None:
    result = inject(pod(labels={"security.istio.io/tlsMode": "disabled"}), config=CONFIG)
    assert result["metadata"]["labels"]["security.istio.io/tlsMode"] == "disabled"


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
