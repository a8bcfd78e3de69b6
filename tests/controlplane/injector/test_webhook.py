"""The injector as a webhook: which pods, in which words it refuses, and that nothing that is sent can break it."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import inject
from pymesh_controlplane.injector.webhook import answer, kubelets_of, native_sidecars
from pymesh_controlplane.webhooks import admission
from pymesh_controlplane.webhooks.admission import Answer, Cause, ReviewError
from tests.controlplane.injector.making import SHAPES, pod_of, shape, stored
from tests.controlplane.webhooks.reviews import request, review
from tests.support.kubernetes.patches import json_patch

CONFIG = InjectionConfig()
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "reviews-"},
    "spec": {"containers": [{"name": "app", "image": "reviews:1"}]},
}


def asked(pod: object, **more: object) -> Answer:
    """The answer to the review of a pod as an API server sends it."""
    return answer(admission.read(review(request("Pod", None) | {"operation": "CREATE", "object": pod} | more)), CONFIG)


def with_spec(**fields: object) -> dict[str, Any]:
    """The pod, its spec with these fields besides."""
    return {**POD, "spec": {**POD["spec"], **fields}}


def with_container(**fields: object) -> dict[str, Any]:
    """The pod, its container with these fields besides."""
    return with_spec(containers=[{**POD["spec"]["containers"][0], **fields}])


def test_to_be_asked_is_to_be_told_whatever_is_known_of_the_namespace() -> None:
    assert asked(POD, namespace="made-a-moment-ago").patch
    assert asked(POD, namespace="default", dryRun=True).patch


@pytest.mark.parametrize(
    "more", [{"operation": "UPDATE"}, {"subResource": "ephemeralcontainers"}, {"operation": "DELETE"}]
)
def test_only_pods_that_are_made_are_changed(more: dict[str, str]) -> None:
    assert asked(POD, **more) == Answer()


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease", "pymesh-system"])
def test_what_a_cluster_and_the_mesh_live_on_is_never_touched(namespace: str) -> None:
    assert asked(POD, namespace=namespace) == Answer()


def test_the_workload_is_the_one_behind_the_owner() -> None:
    owners = [
        ("ReplicaSet", "reviews-v1-6d9f", {"pod-template-hash": "6d9f"}, "reviews-v1"),
        ("ReplicaSet", "bare", {}, "bare"),
        ("Job", "nightly-29391234", {}, "nightly"),
        ("Job", "nightly-2939123", {}, "nightly-2939123"),
        ("StatefulSet", "database", {}, "database"),
    ]
    for kind, name, labels, workload in owners:
        owner = {"kind": kind, "name": name, "controller": True, "apiVersion": "v1", "uid": "u"}
        metadata = {
            "generateName": f"{name}-",
            "labels": labels,
            "ownerReferences": [{"kind": "Node", "name": "n"}, owner],
        }
        pod = {**POD, "metadata": metadata}
        made = json_patch(copy.deepcopy(pod), list(asked(pod).patch))
        assert made["metadata"]["labels"]["service.istio.io/canonical-name"] == workload
        env = next(item for item in made["spec"]["initContainers"] if item["name"] == "pymesh-proxy")["env"]
        assert {"name": "WORKLOAD_NAME", "value": workload} in env


@pytest.mark.parametrize(
    ("pod", "field", "words"),
    [
        (with_container(name="pymesh-proxy"), "spec.containers[0].name", "belongs to the sidecar"),
        (with_spec(initContainers=[{"name": "pymesh-init"}]), "spec.initContainers[0].name", "belongs to the sidecar"),
        (with_spec(volumes=[{"name": "istio-token"}]), "spec.volumes[0].name", "belongs to the sidecar"),
        (with_spec(securityContext={"runAsUser": 1337}), "spec.securityContext.runAsUser", "uid 1337"),
        (
            with_container(securityContext={"runAsUser": 1337}),
            "spec.containers[0].securityContext.runAsUser",
            "uid 1337",
        ),
        (with_container(ports=[{"containerPort": 15001}]), "spec.containers[0].ports[0].containerPort", "15001"),
        (with_container(ports=[{"containerPort": 15020}]), "spec.containers[0].ports[0].containerPort", "15020"),
        (
            with_container(readinessProbe={"httpGet": {"port": "no"}}),
            "spec.containers[0].readinessProbe.httpGet.port",
            "no",
        ),
        (
            with_container(readinessProbe={"httpGet": {"port": []}}),
            "spec.containers[0].readinessProbe.httpGet.port",
            "a whole number",
        ),
        (
            with_container(livenessProbe={"httpGet": {"port": 80, "scheme": {}}}),
            "spec.containers[0].livenessProbe.httpGet.scheme",
            "HTTP or HTTPS",
        ),
        ({**POD, "metadata": {"ownerReferences": True}}, "metadata.ownerReferences", "a list belongs here"),
        ({**POD, "spec": {"containers": []}}, "spec.containers", "at least one"),
        (
            {**POD, "metadata": {"annotations": {"sidecar.istio.io/logLevel": "loud"}}},
            "metadata.annotations[sidecar.istio.io/logLevel]",
            "choose one of",
        ),
        (
            {**POD, "metadata": {"labels": {"sidecar.istio.io/inject": "maybe"}}},
            "metadata.labels[sidecar.istio.io/inject]",
            '"true" or "false"',
        ),
        (
            {**POD, "metadata": {"annotations": {"sidecar.istio.io/status": "{"}}},
            "metadata.annotations[sidecar.istio.io/status]",
            "written by the injector",
        ),
    ],
)
def test_a_pod_that_cannot_be_injected_is_refused_and_not_run_without(pod: object, field: str, words: str) -> None:
    found = asked(pod)
    [cause] = found.refused
    assert (cause.field, list(found.patch)) == (field, [])
    assert words in cause.sentence


def test_a_review_of_something_else_is_none_for_the_injector() -> None:
    for kind in ("VirtualService", "ConfigMap"):
        with pytest.raises(ReviewError, match="asked about Pods"):
            answer(admission.read(review(request(kind, POD))), CONFIG)


def test_a_sidecar_stays_as_it_is_and_what_others_have_added_to_it_goes() -> None:
    """Who writes a variable into a sidecar can lead the app past the mesh, and says that it was injected."""
    pod = stored(inject(POD, config=InjectionConfig(inject_by_default=True)))
    proxy = next(item for item in pod["spec"]["initContainers"] if item["name"] == "pymesh-proxy")
    pod["spec"]["volumes"].append({"name": "tracing", "emptyDir": {}})
    assert asked(pod) == Answer(patch=[])
    before = copy.deepcopy(proxy["env"])
    proxy["env"].insert(1, {"name": "REGION", "value": "eu"})
    proxy["volumeMounts"].insert(0, {"name": "tracing", "mountPath": "/tracing"})
    made = stored(json_patch(copy.deepcopy(pod), list(asked(pod).patch)))
    [bare] = [item for item in made["spec"]["initContainers"] if item["name"] == "pymesh-proxy"]
    assert (bare["env"], "tracing" in str(bare["volumeMounts"])) == (before, False)
    assert {"name": "tracing", "emptyDir": {}} in made["spec"]["volumes"]
    proxy["env"].pop(1)
    proxy["volumeMounts"].pop(0)
    pod["spec"]["containers"].append({"name": "late", "image": "late:1", "livenessProbe": {"tcpSocket": {"port": 80}}})
    made = json_patch(copy.deepcopy(pod), list(asked(pod).patch))
    assert made["spec"]["containers"][1]["livenessProbe"]["httpGet"]["path"] == "/app-health/late/livez"
    pod["spec"]["containers"].pop()
    proxy["image"] = "pymesh-proxy:0.0.1"
    made = json_patch(copy.deepcopy(pod), list(asked(pod).patch))
    [renewed] = [item for item in made["spec"]["initContainers"] if item["name"] == "pymesh-proxy"]
    assert renewed["image"] == CONFIG.proxy_image


def test_a_pod_with_a_budget_as_a_whole_gets_sidecars_that_live_on_it() -> None:
    """An API server refuses containers that ask for more than their pod."""
    budget = {"requests": {"cpu": "20m"}}
    for annotations, resources in (({}, {}), ({"sidecar.istio.io/proxyCPU": "10m"}, {"requests": {"cpu": "10m"}})):
        pod = with_spec(resources=budget) | {"metadata": {"name": "frugal", "annotations": annotations}}
        made = json_patch(copy.deepcopy(pod), list(asked(pod).patch))
        assert [item["resources"] for item in made["spec"]["initContainers"]] == [resources, resources]


def test_the_token_is_readable_for_the_sidecar_whatever_the_pod_says_of_users() -> None:
    """A kubelet keeps projected tokens for one user (0600) if all containers run as that one, and else lets all read.

    With an fsGroup they are the group's, which every container is in. (pkg/volume/util, FsUserFrom.)
    """
    for path in SHAPES:
        pod = stored(pod_of(shape(path)))
        made = json_patch(copy.deepcopy(pod), list(asked(pod).patch))
        spec = made["spec"]
        ours = [
            item for item in spec.get("initContainers", []) + spec["containers"] if item["name"].startswith("pymesh-")
        ]
        users = {item["securityContext"]["runAsUser"] for item in ours}
        assert users in ({0, 1337}, set()), path.stem


@pytest.mark.parametrize(
    ("major", "minor", "there"),
    [("1", "36", True), ("1", "29+", True), ("1", "28", False), ("2", "0", True), ("", "", False), ("x", None, False)],
)
def test_native_sidecars_are_there_since_1_29(major: str, minor: object, there: bool) -> None:
    assert native_sidecars({"major": major, "minor": minor}, ()) is there


@pytest.mark.parametrize(
    ("kubelets", "there"),
    [
        (["v1.30.4-gke.1", "v1.29.0"], True),
        (["v1.30.4", "v1.28.15-eks-a"], False),
        (["v1.9.1"], False),
        (["fargate"], False),
        ([None], True),
        ([], True),
    ],
)
def test_one_kubelet_that_is_older_is_enough(kubelets: list[str | None], there: bool) -> None:
    nodes = [{"status": {"nodeInfo": {"kubeletVersion": version}}} for version in kubelets]
    assert native_sidecars({"major": "1", "minor": "31"}, kubelets_of([*nodes, {}])) is there


# --- attacks --------------------------------------------------------------------------------------------------------

PODS = [stored(pod_of(shape(path))) for path in SHAPES]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70_000) | st.sampled_from(["", "a", "\x00", "15001", "/"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "port", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The way to everything in a pod."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, item in items for each in places(item, (*path, key)))]


@settings(deadline=None)
@given(st.data())
def test_whatever_stands_anywhere_in_a_pod_it_is_injected_or_refused_in_words(data: st.DataObject) -> None:
    pod = copy.deepcopy(data.draw(st.sampled_from(PODS)))
    way = data.draw(st.sampled_from([each for each in places(pod) if each]))
    owner: Any = pod
    for key in way[:-1]:
        owner = owner[key]
    owner[way[-1]] = data.draw(ANYTHING)
    try:
        found = asked(pod)
    except ReviewError:
        return
    assert all(isinstance(cause, Cause) and cause.sentence for cause in found.refused)
    if found.patch:
        made = json_patch(copy.deepcopy(pod), list(found.patch))
        assert asked(made) == Answer(patch=[])
