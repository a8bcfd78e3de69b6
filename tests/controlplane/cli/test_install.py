"""A mesh into a cluster and out again, at an API server that keeps Kubernetes' protocol."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from pymesh.errors import MeshError
from pymesh_controlplane.cli import bundle, installation, readiness, removal
from pymesh_controlplane.cli.main import app
from pymesh_controlplane.kube.api import Api
from pymesh_controlplane.kube.kubeconfig import load
from pymesh_controlplane.kube.paths import Paths
from tests.support.kubernetes.server import ApiServer

SYSTEM = "pymesh-system"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def api(server: ApiServer) -> Iterator[Api]:
    with Api(load([server.kubeconfig()])) as opened:
        yield opened


def installed(api: Api, *, force: bool = False, tag: str = "") -> dict[str, str]:
    documents = bundle.documents(bundle.PARTS, tag=tag)
    return {bundle.title(d): outcome for d, outcome in installation.apply(api, Paths(api), documents, force=force)}


def patched(api: Api, path: str, document: dict[str, Any]) -> None:
    """Written by somebody else, over what is there."""
    found = api.get(path)
    api._ask("PUT", path, {"fieldManager": "somebody"}, {**found, **document})


def left(api: Api, kind: str) -> list[str]:
    return [item["metadata"]["name"] for item in api.items(Paths(api).of(kind), labelSelector="=".join(bundle.PART_OF))]


# --- install -------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_made_and_what_is_there_is_left_alone(api: Api) -> None:
    assert set(installed(api).values()) == {"created"}
    assert set(installed(api).values()) == {"unchanged"}


def test_another_version_changes_what_differs_and_goes_back_to_what_was(api: Api) -> None:
    installed(api)
    changed = {title for title, outcome in installed(api, tag="9").items() if outcome == "configured"}
    assert changed == {f"Deployment {SYSTEM}/{name}" for name in left(api, "Deployment")}
    assert {title for title, outcome in installed(api).items() if outcome == "configured"} == changed
    assert set(installed(api).values()) == {"unchanged"}


def test_fields_of_others_are_named_and_kept_unless_by_force(api: Api) -> None:
    installed(api)
    path = Paths(api).of("Deployment", SYSTEM, "telemetry")
    patched(api, path, {"spec": {**api.get(path)["spec"], "replicas": 3}})
    with pytest.raises(MeshError) as refusal:
        installed(api, tag="9")
    text = str(refusal.value)
    assert 'Deployment pymesh-system/telemetry .spec.replicas: written by "somebody"' in text
    assert "--force-conflicts" in text
    assert api.get(path)["spec"]["replicas"] == 3
    # Everything else is applied.
    [container] = api.get(Paths(api).of("Deployment", SYSTEM, "policy"))["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(":9")
    installed(api, force=True, tag="9")
    assert api.get(path)["spec"]["replicas"] == 1


def test_what_the_leader_writes_is_nobody_elses_business(api: Api) -> None:
    installed(api)
    path = Paths(api).of("MutatingWebhookConfiguration", name="pymesh-injector")
    hooks = api.get(path)["webhooks"]
    for hook in hooks:
        hook["clientConfig"]["caBundle"] = "Q0E="
    patched(api, path, {"webhooks": hooks})
    assert set(installed(api).values()) == {"unchanged"}
    assert {hook["clientConfig"]["caBundle"] for hook in api.get(path)["webhooks"]} == {"Q0E="}


def test_the_command_says_what_is_not_ready_and_goes_on_from_there(server: ApiServer) -> None:
    kubeconfig = ["--kubeconfig", str(server.kubeconfig())]
    first = CliRunner().invoke(app, ["install", "--only", "pilot", "--no-wait", *kubeconfig])
    assert first.exit_code == 0, first.output
    assert "Deployment pymesh-system/pymesh-controlplane" in first.stdout
    assert "policy" not in first.stdout.replace("policy.pymesh.io", "")
    waiting = CliRunner().invoke(app, ["install", "--only", "pilot", "--timeout", "0", *kubeconfig])
    assert waiting.exit_code == 1
    assert isinstance(waiting.exception, MeshError)
    text = str(waiting.exception)
    assert "pymesh-controlplane: " in text
    assert "pymesh-injector: the control plane's leader has not written its caBundle yet" in text
    assert "virtualservices.networking.istio.io" in text


# --- parts ---------------------------------------------------------------------------------------------------------


def test_parts_are_chosen_by_name() -> None:
    assert bundle.parts("", "") == list(bundle.PARTS)
    assert bundle.parts("policy", "") == [*bundle.BASE, "policy"]
    assert bundle.parts("", "policy, egress") == [*bundle.BASE, "telemetry", "ingress"]


@pytest.mark.parametrize(
    ("only", "without", "sentence"),
    [
        ("polcy", "", "--only polcy: there is no such part"),
        ("", "mixer", "--without mixer: there is no such part"),
        ("", "citadel", "--without citadel: pilot, citadel, galley, injector are one Deployment"),
        ("policy", "egress", "exclude each other"),
    ],
)
def test_parts_that_there_are_not_are_refused(only: str, without: str, sentence: str) -> None:
    with pytest.raises(MeshError, match=sentence):
        bundle.parts(only, without)


@pytest.mark.parametrize(("registry", "tag"), [("a b", ""), ("", "1:2"), ("-x", ""), ("", "v 1")])
def test_what_cannot_be_part_of_an_images_name_is_refused(registry: str, tag: str) -> None:
    with pytest.raises(MeshError, match="cannot be part of the name of an image"):
        bundle.documents(bundle.PARTS, registry, tag)


# --- readiness -----------------------------------------------------------------------------------------------------


def deployment(**status: int) -> dict[str, Any]:
    return {
        "metadata": {"name": "policy", "generation": 2},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "policy"}}},
        "status": {"observedGeneration": 2, **status},
    }


def pod(app: str, waiting: dict[str, str], **last: object) -> dict[str, Any]:
    statuses = [{"state": {"waiting": waiting}, "lastState": last}]
    return {"metadata": {"labels": {"app": app}}, "status": {"containerStatuses": statuses}}


@pytest.mark.parametrize(
    ("found", "pods", "sentence"),
    [
        (deployment(replicas=2, updatedReplicas=2, availableReplicas=2), [], ""),
        (
            deployment(replicas=3, updatedReplicas=2, availableReplicas=2),
            [],
            "policy: 2 of 2 ready; still to end of the version before: 1",
        ),
        (
            deployment(replicas=4, updatedReplicas=2, availableReplicas=4),
            [],
            "policy: 2 of 2 ready; still to end of the version before: 2",
        ),
        (deployment(replicas=2, updatedReplicas=1, availableReplicas=2), [], "policy: 1 of 2 ready"),
        (deployment(observedGeneration=1), [], "policy: not seen by the cluster's controller yet"),
        (
            deployment(),
            [pod("policy", {"reason": "ImagePullBackOff", "message": "no such image"})],
            "policy: 0 of 2 ready; ImagePullBackOff: no such image",
        ),
        (
            deployment(),
            [pod("policy", {"reason": "CrashLoopBackOff"}, terminated={"exitCode": 2})],
            "policy: 0 of 2 ready; CrashLoopBackOff (ended with 2)",
        ),
        (deployment(), [pod("other", {"reason": "ImagePullBackOff"})], "policy: 0 of 2 ready"),
        (deployment(), [pod("policy", {"reason": "ContainerCreating"})], "policy: 0 of 2 ready"),
    ],
)
def test_a_deployment_says_what_it_waits_for(found: dict[str, Any], pods: list[dict[str, Any]], sentence: str) -> None:
    assert readiness.deployment_waits(found, pods) == sentence


# --- uninstall -----------------------------------------------------------------------------------------------------


def removed(api: Api, *, purge: bool = False) -> dict[str, str]:
    return dict(removal.remove(api, Paths(api), purge=purge))


def made_by_leader(api: Api) -> None:
    """Istio's CRDs, as the control plane's leader makes them."""
    paths = Paths(api)
    for crd in bundle.crds():
        query = {"fieldManager": "pymesh-controlplane"}
        api._ask("POST", paths.of("CustomResourceDefinition"), query, crd)


def test_nothing_is_left_of_a_mesh_that_nobody_wrote_anything_for(api: Api) -> None:
    installed(api)
    made_by_leader(api)
    assert set(removed(api).values()) == {"deleted"}
    removal.wait_until_gone(api, Paths(api), lambda _: None, timeout=10)
    for kind in bundle.ORDER:
        assert left(api, kind) == [], kind
    assert removed(api) == {}


def test_what_people_wrote_stays_with_its_crd_and_goes_with_purge(api: Api) -> None:
    made_by_leader(api)
    written = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {},
    }
    paths = Paths(api)
    api.create(paths.of("VirtualService", "default"), written)
    installed(api)
    said = removed(api)
    title = "CustomResourceDefinition virtualservices.networking.istio.io"
    assert said.pop(title) == "kept, with what is yours: 1 of them"
    assert set(said.values()) == {"deleted"}
    assert api.get(paths.of("VirtualService", "default", "reviews"))
    assert removed(api, purge=True) == {title: "deleted"}


def test_the_namespace_stays_as_long_as_it_holds_what_is_somebodys(api: Api) -> None:
    installed(api)
    paths = Paths(api)
    metadata = {"name": "cacerts", "namespace": SYSTEM}
    api.create(paths.of("Secret", SYSTEM), {"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
    api.create(
        paths.of("Secret", SYSTEM),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pymesh-ca", "namespace": SYSTEM}},
    )
    said = removed(api)
    assert said["Namespace pymesh-system"] == "kept, with what is yours in it: Secret cacerts"
    assert said["Secret pymesh-system/pymesh-ca"] == "deleted"
    assert api.find(paths.of("Secret", SYSTEM, "cacerts")) is not None
    assert removed(api, purge=True) == {"Namespace pymesh-system": "deleted"}


def test_a_dry_run_tells_what_would_go_and_deletes_nothing(server: ApiServer, api: Api) -> None:
    installed(api)
    made_by_leader(api)
    metadata = {"name": removal.CA, "namespace": SYSTEM}
    ca = Paths(api).of("Secret", SYSTEM, removal.CA)
    api.create(Paths(api).of("Secret", SYSTEM), {"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
    told = dict(removal.remove(api, Paths(api), purge=False, dry_run=True))
    assert set(told.values()) == {"would be deleted"}
    assert f"Namespace {SYSTEM}" in told
    assert set(installed(api).values()) == {"unchanged"}
    done = CliRunner().invoke(app, ["uninstall", "--dry-run", "--kubeconfig", str(server.kubeconfig())])
    assert done.exit_code == 0, done.output
    assert "would be deleted" in done.output
    assert "Secret pymesh-system/pymesh-ca is the mesh's CA, and goes with it" in done.output
    assert api.find(ca) is not None
    assert removed(api) == dict.fromkeys(told, "deleted")


def test_a_crd_that_somebody_else_has_taken_over_is_left_alone(api: Api) -> None:
    made_by_leader(api)
    path = Paths(api).of("CustomResourceDefinition", name="gateways.networking.istio.io")
    patched(api, path, {"spec": {**api.get(path)["spec"], "preserveUnknownFields": False, "names": {
        **api.get(path)["spec"]["names"], "shortNames": ["gw", "istiogw"],
    }}})  # fmt: skip
    said = removed(api, purge=True)
    assert said["CustomResourceDefinition gateways.networking.istio.io"] == "kept: others have changed it"
    assert api.find(path) is not None


def test_the_command_says_that_there_is_nothing(server: ApiServer) -> None:
    done = CliRunner().invoke(app, ["uninstall", "--kubeconfig", str(server.kubeconfig())])
    assert done.exit_code == 0, done.output
    assert "there is nothing of a mesh in the cluster" in done.output
