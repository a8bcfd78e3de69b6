"""The manifests of a cluster: rendered offline by kubectl, held against Kubernetes' schemas and our own rules."""

import itertools
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pymesh import names
from pymesh_controlplane.cli import bundle, inspection
from pymesh_controlplane.injector import scraping
from pymesh_controlplane.injector.containers import InjectionConfig, gateway_pod
from pymesh_controlplane.injector.inject import inject
from pymesh_controlplane.injector.webhook import SYSTEM_NAMESPACES
from pymesh_controlplane.local import gateways
from pymesh_controlplane.options import parse
from pymesh_controlplane.sources import kinds
from pymesh_controlplane.webhooks import server
from tests.deploy.rendering import DEPLOY, Document, canonical, container_of, of_kind, pod_of, rendered
from tests.deploy.restricted import violations
from tests.support.repository import ROOT

# From the first version that knows everything in use, which is preStop's sleep, to the newest.
VERSIONS = ("1.30", "1.36")


def pymesh(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pymesh_controlplane.cli.main", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- What is rendered ----------------------------------------------------------------------------------------------


def test_pymesh_install_applies_what_kubectl_does(everything: list[Document]) -> None:
    assert canonical(list(yaml.safe_load_all(pymesh("install", "--dry-run", "-o", "yaml")))) == canonical(everything)


def test_images_have_other_names_in_every_place_at_once(tmp_path: Path) -> None:
    """With kustomize's `images`, from an overlay, and with the options of `pymesh install`."""
    images = [{"name": name, "newName": f"registry.example:5000/mesh/{name}", "newTag": "9"} for name in bundle.IMAGES]
    overlay = {"resources": [f"{Path(*['..'] * (len(tmp_path.parts) - 1))}{DEPLOY}"], "images": images}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    found = rendered(tmp_path)
    text = yaml.safe_dump_all(found)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert text.count("registry.example:5000/mesh/pymesh-proxy:9") == 3  # two gateways, and PROXY_IMAGE
    assert f":{version}" not in text
    installed = pymesh(
        "install", "--dry-run", "-o", "json", "--image-registry", "registry.example:5000/mesh", "--tag", "9"
    )
    assert canonical(json.loads(installed)["items"]) == canonical(found)


def test_images_are_of_this_version(everything: list[Document]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container_of(document)["image"] for document in of_kind(everything, "Deployment").values()}
    assert images == {f"{name}:{version}" for name in bundle.IMAGES}
    samples = [d for file in DEPLOY.glob("samples/**/*.yaml") for d in yaml.safe_load_all(file.read_text())]
    pods = [d["spec"] if d["kind"] == "Pod" else pod_of(d) for d in samples if d["kind"] in {"Pod", "Deployment"}]
    assert len(pods) >= 10
    assert {c["image"] for pod in pods for c in pod["containers"]} == {f"pymesh-samples:{version}"}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_the_schema_of_kubernetes_says(everything: list[Document], version: str) -> None:
    objects = [*everything, *bundle.crds()]
    for document in objects:
        kubernetes_validate.validate(document, version, strict=True)
    wrong = {**of_kind(everything, "Service")["pilot"], "spec": {"ports": [{"port": "many"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize(
    "parts", [c for n in range(len(bundle.OPTIONAL) + 1) for c in itertools.combinations(bundle.OPTIONAL, n)]
)
def test_every_part_may_be_left_out(parts: tuple[str, ...]) -> None:
    """Whatever is there refers only to what is there."""
    found = bundle.documents([*bundle.BASE, *parts])
    accounts, deployments = of_kind(found, "ServiceAccount"), of_kind(found, "Deployment")
    assert len(deployments) == 1 + len(parts)
    for deployment in deployments.values():
        assert pod_of(deployment)["serviceAccountName"] in accounts
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels_of(deployment).items()
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for binding in of_kind(found, kind).values():
            assert binding["roleRef"]["name"] in of_kind(found, binding["roleRef"]["kind"])
            assert {subject["name"] for subject in binding["subjects"]} <= accounts.keys()
    for service in of_kind(found, "Service").values():
        [behind] = selected(deployments, service["spec"]["selector"])
        ports = {port["name"]: port["containerPort"] for port in container_of(behind)["ports"]}
        targets = {port["targetPort"] for port in service["spec"]["ports"]}
        assert targets <= ports.keys() | ports.values()
    for budget in of_kind(found, "PodDisruptionBudget").values():
        assert len(selected(deployments, budget["spec"]["selector"]["matchLabels"])) == 1
    for hook in hooks(found):
        service = of_kind(found, "Service")[hook["clientConfig"]["service"]["name"]]
        assert [port["port"] for port in service["spec"]["ports"]] == [443]
        assert f"{service['metadata']['name']}.{names.SYSTEM_NAMESPACE}.svc" in server.DNS_NAMES


def labels_of(deployment: Document) -> Document:
    return dict(deployment["spec"]["template"]["metadata"]["labels"])


def selected(deployments: dict[str, Document], selector: Document) -> list[Document]:
    return [found for found in deployments.values() if selector.items() <= labels_of(found).items()]


def hooks(documents: list[Document]) -> list[Document]:
    found = [document for document in documents if document["kind"].endswith("WebhookConfiguration")]
    return [hook for document in found for hook in document["webhooks"]]


# --- How it runs ---------------------------------------------------------------------------------------------------


def test_every_pod_is_restricted(everything: list[Document]) -> None:
    [namespace] = of_kind(everything, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, deployment in of_kind(everything, "Deployment").items():
        assert violations(pod_of(deployment)) == [], name
        container = container_of(deployment)
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod_of(deployment)["securityContext"]["runAsUser"] == names.PROXY_UID


def test_only_the_redirect_of_an_injected_pod_needs_more_than_restricted() -> None:
    restricted = {
        "name": "app",
        "image": "app:1",
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"}, "spec": {"containers": [restricted]}}
    assert violations(pod["spec"]) == []
    injected = inject(pod, config=InjectionConfig(inject_by_default=True))
    found = violations(injected["spec"])
    assert found
    assert {where for where, _ in found} == {"pymesh-init"}
    assert {what for _, what in found} == {"may run as root", "runs as root", "adds NET_ADMIN", "adds NET_RAW"}


def test_every_pod_is_probed_has_resources_and_ends_slower_than_it_is_forgotten(everything: list[Document]) -> None:
    for name, deployment in of_kind(everything, "Deployment").items():
        pod, container = pod_of(deployment), container_of(deployment)
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports, name
        # Who waits for the API server, or for pilot, is not ready; to start it anew would help nobody.
        assert container["livenessProbe"]["httpGet"]["path"] != container["readinessProbe"]["httpGet"]["path"]
        assert container["livenessProbe"]["httpGet"] == container["startupProbe"]["httpGet"]
        assert {"cpu", "memory"} == container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        sleeps = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert 0 < sleeps < pod["terminationGracePeriodSeconds"]
        rolling = deployment["spec"]["strategy"]["rollingUpdate"]
        assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (0, 1)
        if "--drain-time" in container["command"]:
            drains = float(container["command"][container["command"].index("--drain-time") + 1])
            assert sleeps + drains < pod["terminationGracePeriodSeconds"]


def test_pods_are_labelled_and_announced_as_in_a_mesh_on_one_machine(everything: list[Document]) -> None:
    deployments = of_kind(everything, "Deployment")
    for part in (gateways.INGRESS, gateways.EGRESS):
        name = gateways.GATEWAYS[part]
        _, service, pod = gateways.manifests(part, {}, InjectionConfig())
        assert pod["metadata"]["labels"].items() <= labels_of(deployments[name]).items()
        assert annotations_of(deployments[name]) == pod["metadata"]["annotations"]
        assert of_kind(everything, "Service")[name]["spec"]["ports"] == service["spec"]["ports"]
    for name in ("policy", "telemetry", names.CONTROL_PLANE):
        assert labels_of(deployments[name])["app"] == name
        assert annotations_of(deployments[name]) == scraping.of_control_plane()
    for name in ("policy", "telemetry"):
        assert labels_of(deployments[name])[names.LABEL_TLS_MODE] == "istio"


def annotations_of(deployment: Document) -> Document:
    return dict(deployment["spec"]["template"]["metadata"]["annotations"])


@pytest.mark.parametrize("name", gateways.GATEWAYS.values())
def test_a_gateway_has_what_the_injector_says_of_gateways(everything: list[Document], name: str) -> None:
    expected = gateway_pod(InjectionConfig(), name, [])
    [wanted] = expected["containers"]
    deployment = of_kind(everything, "Deployment")[name]
    found = container_of(deployment)
    assert found["image"] == wanted["image"]
    assert found["command"][:4] == wanted["command"][:4]
    assert without_defaults(found["env"]) == wanted["env"]
    assert found["volumeMounts"] == wanted["volumeMounts"]
    assert without_defaults(pod_of(deployment)["volumes"]) == expected["volumes"]
    assert {port["name"] for port in wanted["ports"]} <= {port["name"] for port in found["ports"]}


def without_defaults(value: Any) -> Any:
    """`value` without the version of a field reference, which the API server would put there."""
    if isinstance(value, dict):
        return {k: without_defaults(v) for k, v in value.items() if not (k == "apiVersion" and "fieldPath" in value)}
    return [without_defaults(item) for item in value] if isinstance(value, list) else value


def test_what_waits_for_the_mesh_gets_its_identity_as_any_workload(everything: list[Document]) -> None:
    for name in ("policy", "telemetry"):
        mounts = {mount["mountPath"] for mount in container_of(of_kind(everything, "Deployment")[name])["volumeMounts"]}
        mounts.discard("/etc/pymesh/store")  # see below
        assert mounts == {str(Path(names.TOKEN_PATH).parent), str(Path(names.ROOT_CERT_PATH).parent)}


def test_replicas_of_policy_share_what_a_secret_names_by_files_and_stay_as_they_were_scaled(
    everything: list[Document],
) -> None:
    """Nothing of it is in the environment or the command line, and without the Secret the pod runs alone."""
    spec = of_kind(everything, "Deployment")["policy"]["spec"]
    assert "replicas" not in spec
    [command] = [container["command"] for container in spec["template"]["spec"]["containers"]]
    [volume] = [volume for volume in spec["template"]["spec"]["volumes"] if "secret" in volume]
    [mount] = [each for each in spec["template"]["spec"]["containers"][0]["volumeMounts"] if each["name"] == "store"]
    assert volume == {"name": "store", "secret": {"secretName": inspection.STORE, "optional": True}}
    assert parse(command[1:], {}).store_from == Path(mount["mountPath"])


# --- Webhooks ------------------------------------------------------------------------------------------------------


def test_nothing_of_a_webhook_is_written_here_that_the_leader_writes(everything: list[Document]) -> None:
    """Else whoever applies the manifests again would take away what the API server believes in."""
    for hook in hooks(everything):
        assert "caBundle" not in hook["clientConfig"]
        assert hook["sideEffects"] == "None"
        assert hook["admissionReviewVersions"] == ["v1"]
        assert hook["timeoutSeconds"] <= 10


def test_the_injector_is_never_asked_about_what_it_needs_itself(everything: list[Document]) -> None:
    [configuration] = of_kind(everything, "MutatingWebhookConfiguration").values()
    for hook in configuration["webhooks"]:
        [expression] = [
            expression
            for expression in hook["namespaceSelector"]["matchExpressions"]
            if expression["key"] == "kubernetes.io/metadata.name"
        ]
        assert expression["operator"] == "NotIn"
        assert set(expression["values"]) == SYSTEM_NAMESPACES
        assert hook["failurePolicy"] == "Fail"


def test_galley_is_asked_about_every_kind_that_steers_the_mesh_and_keeps_nobody_from_deleting(
    everything: list[Document],
) -> None:
    [configuration] = of_kind(everything, "ValidatingWebhookConfiguration").values()
    asked: dict[str, set[tuple[str, str]]] = {"CREATE": set(), "UPDATE": set(), "DELETE": set()}
    for hook in configuration["webhooks"]:
        for rule in hook["rules"]:
            for operation in rule["operations"]:
                asked[operation] |= set(itertools.product(rule["apiGroups"], rule["resources"]))
                assert (operation == "DELETE") is (hook["failurePolicy"] == "Ignore")
    mesh = {(kind.resources[0]._api_info.resource.group, kind.resources[0]._api_info.plural) for kind in kinds.MESH}
    assert asked == {"CREATE": {*mesh, ("", "configmaps")}, "UPDATE": {*mesh, ("", "configmaps")}, "DELETE": mesh}


# --- kind ----------------------------------------------------------------------------------------------------------


def test_kind_leads_from_this_machine_to_the_ingress_gateway(everything: list[Document]) -> None:
    [control_plane, _worker] = yaml.safe_load((DEPLOY / "kind/cluster.yaml").read_text())["nodes"]
    found = rendered(DEPLOY / "kind")
    service = of_kind(found, "Service")["ingressgateway"]
    assert service["spec"]["type"] == "NodePort"
    ways = {mapping["containerPort"]: mapping["hostPort"] for mapping in control_plane["extraPortMappings"]}
    by_target = {port["targetPort"]: ways[port["nodePort"]] for port in service["spec"]["ports"]}
    assert by_target == {8080: 8080, 8443: 8443}
    # Apart from that it is the mesh that everyone else gets.
    others = [document for document in found if document is not service]
    wanted = [d for d in everything if (d["kind"], d["metadata"]["name"]) != ("Service", "ingressgateway")]
    assert canonical(others) == canonical(wanted)


@pytest.mark.parametrize("script", ["up", "down"])
def test_the_scripts_of_kind_say_what_is_missing(script: str, tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "env"):
        (tmp_path / tool).symlink_to(Path("/usr/bin") / tool)
    done = subprocess.run(
        [str(DEPLOY / "kind" / script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=10
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"deploy/kind/{script} needs {'docker' if script == 'up' else 'kind'}: https://")
