"""What `pymesh check` finds, and what it lets pass."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pymesh_controlplane.cli import bundle, inspection, survey
from pymesh_controlplane.cli.check import summed_up
from pymesh_controlplane.cli.inspection import SOON, TOLD
from pymesh_controlplane.cli.mesh import Pilot
from pymesh_controlplane.kube.api import ApiError
from pymesh_controlplane.pilot.model import Problem, Severity

NOW = datetime(2030, 1, 1, tzinfo=UTC)
IMAGE = "pymesh-proxy:0.2.0"


def told(findings: Any) -> list[tuple[str, str]]:
    found = list(findings)
    assert all(item.remedy and item.problem for item in found)
    return [(item.severity, item.about) for item in found]


def pod(name: str, namespace: str = "shop", *, image: str = "", **changes: Any) -> dict[str, Any]:
    sidecar = [{"name": "pymesh-proxy", "image": image, "restartPolicy": "Always"}] if image else []
    annotations = {"sidecar.istio.io/status": "{}"} if image else {}
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    return {
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations, **changes.pop("metadata", {})},
        "spec": {"containers": [{"name": "app"}], "initContainers": sidecar, **changes.pop("spec", {})},
        "status": {**status, **changes.pop("status", {})},
    }


def own(name: str, wanted: int) -> dict[str, Any]:
    """A Deployment of the mesh with as many pods as it wants."""
    status = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), wanted)
    spec = {"replicas": wanted, "selector": {"matchLabels": {"app": name}}}
    return {"metadata": {"name": name}, "spec": spec, "status": status}


@pytest.mark.parametrize(
    ("control_plane", "policy", "limits", "severities"),
    [
        (2, 1, 3, []),
        (0, 1, 3, ["error"]),
        (2, 0, 3, ["error"]),
        (2, 0, 0, ["warning"]),
        (0, 0, 0, ["warning", "error"]),
    ],
)
def test_what_is_scaled_to_0_is_not_ready_however_few_it_wants(
    control_plane: int, policy: int, limits: int, severities: list[str]
) -> None:
    deployments = [own("policy", policy), own("pymesh-controlplane", control_plane)]
    found = list(inspection.components(deployments, [], limits))
    assert [item.severity for item in found] == severities
    for item in found:
        name = item.about.removeprefix("Deployment ")
        assert item.problem.startswith("is scaled to 0")
        replicas = 2 if name == "pymesh-controlplane" else 1
        assert item.remedy == f"kubectl -n pymesh-system scale deployment/{name} --replicas={replicas}"


def test_limits_that_nobody_counts_for() -> None:
    [found] = inspection.components([own("pymesh-controlplane", 2)], [], 1)
    assert found.problem.startswith("there is no Deployment policy, and nobody counts for the 1 limit that is in force")


def test_replicas_that_share_nothing() -> None:
    assert told(inspection.without_store([own("policy", 1), own("pymesh-controlplane", 2)])) == []
    [found] = inspection.without_store([own("policy", 3), own("pymesh-controlplane", 2)])
    assert found.severity == "error"
    assert found.problem == "has 3 replicas and no store: every limit holds for each of them alone"


@pytest.mark.parametrize(
    ("version", "fine"),
    [(("1", "29+"), False), (("1", "30"), True), (("2", "0"), True)],
)
def test_an_old_cluster(version: tuple[str, str], fine: bool) -> None:
    assert told(inspection.version({"major": version[0], "minor": version[1]})) == (
        [] if fine else [("error", "Kubernetes")]
    )


def test_webhooks_that_are_not_there_or_trust_nobody() -> None:
    trusted = {"name": "a", "clientConfig": {"caBundle": "eA=="}}
    assert told(inspection.webhooks("pymesh-injector", None)) == [("error", "pymesh-injector")]
    assert told(inspection.webhooks("pymesh-galley", {"webhooks": [trusted, {"name": "b", "clientConfig": {}}]})) == [
        ("error", "pymesh-galley")
    ]
    assert told(inspection.webhooks("pymesh-galley", {"webhooks": [trusted]})) == []


def test_a_second_injector_for_the_same_label() -> None:
    rule = {"key": "istio-injection", "operator": "In", "values": ["enabled"]}
    istio = {"metadata": {"name": "istio"}, "webhooks": [{"namespaceSelector": {"matchExpressions": [rule]}}]}
    old = {
        "metadata": {"name": "old"},
        "webhooks": [{"namespaceSelector": {"matchLabels": {"istio-injection": "enabled"}}}],
    }
    own = {"metadata": {"name": "pymesh-injector"}, "webhooks": istio["webhooks"]}
    other = {"metadata": {"name": "other"}, "webhooks": [{"namespaceSelector": {"matchLabels": {"istio.io/rev": "x"}}}]}
    shop = {"metadata": {"name": "shop", "labels": {"istio-injection": "enabled"}}}
    for spaces, severity in (([shop], "error"), ([], "warning")):
        assert told(inspection.others([istio, old, own, other], spaces)) == [
            (severity, "MutatingWebhookConfiguration istio"),
            (severity, "MutatingWebhookConfiguration old"),
        ]


def rule(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator} | ({"values": list(values)} if values else {})


def webhook(namespace: list[dict[str, Any]], pod: list[dict[str, Any]]) -> dict[str, Any]:
    return {"namespaceSelector": {"matchExpressions": namespace}, "objectSelector": {"matchExpressions": pod}}


REVISION, NO_REVISION = rule("istio.io/rev", "In", "default"), rule("istio.io/rev", "DoesNotExist")
SILENT, WILLING = rule("istio-injection", "DoesNotExist"), rule("sidecar.istio.io/inject", "NotIn", "false")
# As istiod's chart has them for a revision of its own, and, of the default revision, beside those.
BY_REVISION = [webhook([REVISION, SILENT], [WILLING]), webhook([NO_REVISION, SILENT], [WILLING, REVISION])]
BY_POD = webhook([SILENT, NO_REVISION], [rule("sidecar.istio.io/inject", "In", "true"), NO_REVISION])
BY_NAMESPACE = webhook([rule("istio-injection", "In", "enabled")], [WILLING])
NEVER = {"namespaceSelector": {"matchLabels": {"istio.io/deactivated": "never-match"}}}


def test_an_istio_of_the_default_revision_also_takes_pods_by_their_own_label() -> None:
    istio = {"metadata": {"name": "istio"}, "webhooks": [*BY_REVISION, BY_NAMESPACE, BY_POD]}
    [finding] = inspection.others([istio], [])
    assert "istio-injection=enabled" in finding.problem
    assert 'sidecar.istio.io/inject: "true"' in finding.problem
    assert "istio.io/rev=pymesh" in finding.remedy
    [finding] = inspection.others([{"metadata": {"name": "istio"}, "webhooks": [BY_POD]}], [])
    assert "istio-injection=enabled:" not in finding.problem


def test_an_istio_of_a_revision_of_its_own_is_in_nobodys_way() -> None:
    deactivated = {
        "namespaceSelector": {**BY_NAMESPACE["namespaceSelector"], **NEVER["namespaceSelector"]},
        "objectSelector": {},
    }
    everything = {"namespaceSelector": {}, "objectSelector": {}}
    istio = {"metadata": {"name": "istio"}, "webhooks": [*BY_REVISION, deactivated, everything]}
    assert not list(inspection.others([istio], []))


def test_the_namespaces_that_are_recommended_are_passed_over_by_istio_and_taken_by_pymesh() -> None:
    """What docs/kubernetes.md says of both, held against the selectors of both."""
    namespace, pod = {"istio.io/rev": "pymesh"}, {"sidecar.istio.io/inject": "true"}

    def taken(webhooks: list[dict[str, Any]]) -> list[bool]:
        both = (("namespaceSelector", namespace), ("objectSelector", pod))
        return [all(inspection._selects(each[name], labels) for name, labels in both) for each in webhooks]

    [own] = [item for item in bundle.documents(bundle.PARTS) if item["kind"] == "MutatingWebhookConfiguration"]
    assert not any(taken([*BY_REVISION, BY_NAMESPACE, BY_POD]))
    assert sum(taken(own["webhooks"])) == 1


@pytest.mark.parametrize(
    ("name", "labels", "severity"),
    [
        ("shop", {"istio-injection": "enabled"}, None),
        ("shop", {"istio-injection": "disabled"}, None),
        ("shop", {"istio-injection": "true"}, "warning"),
        ("kube-system", {"istio-injection": "enabled"}, "warning"),
        ("shop", {"istio.io/rev": "default"}, "note"),
        ("shop", {"istio-injection": "enabled", "pod-security.kubernetes.io/enforce": "baseline"}, "error"),
        ("shop", {"pod-security.kubernetes.io/enforce": "restricted"}, None),
        ("shop", {"istio-injection": "enabled", "pod-security.kubernetes.io/enforce": "privileged"}, None),
    ],
)
def test_labels_of_namespaces(name: str, labels: dict[str, str], severity: str | None) -> None:
    found = told(inspection.namespaces([{"metadata": {"name": name, "labels": labels}}]))
    assert found == ([(severity, f"Namespace {name}")] if severity else [])


def test_pods_that_should_have_a_sidecar() -> None:
    pods = [
        pod("with", image=IMAGE),
        pod("without"),
        pod("other", "elsewhere"),
        pod("no", metadata={"labels": {"sidecar.istio.io/inject": "false"}}),
        pod("host", spec={"hostNetwork": True}),
        pod("done", status={"phase": "Succeeded"}),
        pod("envoy", metadata={"annotations": {"sidecar.istio.io/status": "{}"}}),
        pod("proxy", "kube-system"),
    ]
    labels = {name: {"istio-injection": "enabled"} for name in ("shop", "kube-system")}
    [found] = inspection.sidecars(pods, labels, IMAGE)
    assert (found.severity, found.about) == ("warning", "Namespace shop")
    assert found.problem.endswith(": without")


def test_sidecars_of_another_version_and_of_ones_own_choice() -> None:
    chosen = {"sidecar.istio.io/proxyImage": "mine:1", "sidecar.istio.io/status": "{}"}
    pods = [pod("old", image="pymesh-proxy:0.1.0"), pod("own", image="mine:1", metadata={"annotations": chosen})]
    [found] = inspection.sidecars(pods, {}, IMAGE)
    assert found.problem == f"sidecars of another version than {IMAGE}: old (pymesh-proxy:0.1.0)"
    assert list(inspection.sidecars(pods, {}, "")) == []


def test_a_sidecar_that_is_not_ready_is_told_from_one_that_has_just_begun() -> None:
    def with_state(state: dict[str, Any]) -> dict[str, Any]:
        statuses = [{"name": "pymesh-proxy", "ready": False, "state": state}]
        return pod("web", image=IMAGE, status={"initContainerStatuses": statuses, "conditions": []})

    running = inspection.sidecars([with_state({"running": {}})], {}, IMAGE)
    assert told(running) == [("error", "Pod shop/web")]
    [pulling] = inspection.sidecars([with_state({"waiting": {"reason": "ImagePullBackOff"}})], {}, IMAGE)
    assert pulling.problem == "its sidecar is not ready: pymesh-proxy ImagePullBackOff"


def test_what_proxies_say_to_pilot_and_which_of_them_say_nothing() -> None:
    def proxy(name: str, status: str, error: str = "") -> dict[str, Any]:
        types = {"lds": {"status": status, "error": error}}
        return {"proxy": name, "node": name, "connected_since": "", "types": types}

    problems = [problem("error", "no", "VirtualService shop/web"), problem("warning", "odd", "RateLimit shop/few")]
    proxies = [proxy("a.shop", "NACKED", "no such filter"), proxy("b.shop", "STALE"), proxy("c.shop", "SYNCED")]
    pods = [pod(name, image=IMAGE) for name in "abcd"]
    found = list(inspection.acknowledgements([Pilot("one", {"problems": problems}, proxies)], pods))
    assert told(found) == [
        ("error", "proxy a.shop"),
        ("warning", "proxy b.shop"),
        ("warning", "pilot"),
        ("warning", "VirtualService shop/web"),
        ("warning", "RateLimit shop/few"),
    ]
    assert found[2].problem.endswith(": d.shop")
    assert [item.problem for item in found[3:]] == ["not in force: no", "odd"]


def problem(severity: str, sentence: str, resource: str, path: str = "") -> dict[str, Any]:
    """As pilot tells it."""
    return {**Problem(Severity(severity), sentence, path, resource=resource).as_json()}


def test_what_pilot_says_of_several_fields_is_said_once() -> None:
    same = [problem("error", "no subset v9", "VirtualService shop/web", f"spec.http[{n}]") for n in range(4)]
    found = list(inspection.acknowledgements([Pilot(name, {"problems": same}, []) for name in "ab"], []))
    assert [(item.about, item.problem.count("no subset v9")) for item in found] == [("VirtualService shop/web", 1)]
    assert found[0].problem.startswith("not in force: spec.http[0], spec.http[1]")
    many = [problem("warning", "odd", f"Gateway shop/{n}") for n in range(TOLD + 3)]
    found = list(inspection.acknowledgements([Pilot("a", {"problems": many}, [])], []))
    assert len(found) == TOLD + 1
    assert found[-1].problem == "pilot has 3 more to say of what it reads"


@pytest.mark.parametrize(
    ("severities", "line"),
    [
        ([], "all is well"),
        (["note"], "no errors, 1 note"),
        (["warning", "warning", "note"], "no errors, 2 warnings, 1 note"),
        (["error", "warning"], "1 error, 1 warning"),
    ],
)
def test_the_last_line_is_true(severities: list[str], line: str) -> None:
    assert summed_up(severities, "all is well") == line


def test_a_look_that_fails_on_a_busy_machine_is_taken_twice() -> None:
    looks = iter([ApiError("busy"), "seen"])

    def look() -> str:
        found = next(looks)
        if isinstance(found, ApiError):
            raise found
        return str(found)

    assert survey.twice(look) == "seen"


def test_ports_that_do_not_say_what_is_spoken() -> None:
    def service(namespace: str, *ports: dict[str, Any]) -> dict[str, Any]:
        return {"metadata": {"name": "web", "namespace": namespace}, "spec": {"selector": {"a": "b"}, "ports": ports}}

    silent, said = {"port": 80, "name": "web"}, {"port": 81, "name": "http-web"}
    applied, udp = {"port": 82, "appProtocol": "tcp"}, {"port": 53, "protocol": "UDP"}
    [found] = inspection.services([service("shop", silent, said, applied, udp), service("elsewhere", silent)], ["shop"])
    assert (found.severity, found.problem.rpartition(": ")[2]) == ("note", "shop/web web")


@pytest.mark.parametrize(
    ("left", "severity"),
    [(timedelta(days=365), None), (SOON - timedelta(hours=1), "warning"), (timedelta(0), "error")],
)
def test_certificates_that_end(left: timedelta, severity: str | None) -> None:
    found = told(inspection.certificate("root", NOW + left, NOW, SOON, "renew it"))
    assert found == ([(severity, "root")] if severity else [])


def test_a_deployment_whose_pods_are_not_made() -> None:
    def app(name: str, there: int, namespace: str = "shop", **status: Any) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace}
        return {"metadata": metadata, "spec": {"replicas": 2}, "status": {"replicas": there, **status}}

    refused = [{"type": "ReplicaFailure", "status": "True", "message": "failed calling webhook"}]
    apps = [app("whole", 2), app("none", 0, conditions=refused), app("some", 1), app("other", 0, "elsewhere")]
    found = list(inspection.short_of_pods(apps, {"shop"}))
    assert told(found) == [("error", "Deployment shop/none"), ("warning", "Deployment shop/some")]
    assert found[0].problem == "0 of 2 pods have been made: failed calling webhook"
    assert "kubectl -n shop rollout restart deployment/none" in found[0].remedy
