"""What `pymesh install` leaves in a cluster, and what its leader then makes."""

import json

import pytest

from tests.cluster import cluster
from tests.cluster.cluster import SYSTEM, get, kubectl, pymesh, refused
from tests.support.waiting import eventually_sync

PLAIN = """
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: pymesh-system}
spec: {containers: [{name: app, image: "pymesh-samples:0.1.0", command: [sleep, infinity]}]}
"""


def test_everything_is_ready_and_check_finds_nothing_wrong(mesh: str) -> None:
    for deployment in get("deployments", "-n", SYSTEM):
        assert deployment["status"]["readyReplicas"] == deployment["spec"]["replicas"], deployment["metadata"]["name"]
    pymesh("check")


def test_another_install_changes_nothing(mesh: str) -> None:
    again = json.loads(pymesh("install", *cluster.install_options(), "-o", "json", timeout=300))
    assert {row["object"]: row["outcome"] for row in again if row["outcome"] != "unchanged"} == {}


def test_what_others_have_written_is_told_and_left_to_them(mesh: str) -> None:
    patch = '{"spec": {"replicas": 2}}'
    kubectl("-n", SYSTEM, "patch", "deployment", "telemetry", "-p", patch, "--field-manager", "somebody")
    try:
        done = cluster.run(str(cluster.BIN / "pymesh"), "install", *cluster.install_options(), timeout=300)
        assert done.returncode == 1
        said = " ".join(done.stderr.split())
        assert 'Deployment pymesh-system/telemetry .spec.replicas: written by "somebody"' in said
        assert get("deployment", "telemetry", "-n", SYSTEM)["spec"]["replicas"] == 2
    finally:
        pymesh("install", *cluster.install_options(), "--force-conflicts", timeout=300)
    assert get("deployment", "telemetry", "-n", SYSTEM)["spec"]["replicas"] == 1


def test_every_namespace_has_the_root_that_the_webhooks_are_held_against(mesh: str) -> None:
    roots = {
        root["metadata"]["namespace"]: root["data"]["root-cert.pem"]
        for root in get("configmaps", "-A", "--field-selector", "metadata.name=pymesh-ca-root-cert")
    }
    assert roots.keys() >= {"default", SYSTEM}
    assert len(set(roots.values())) == 1
    kubectl("create", "namespace", "pymesh-later")
    try:
        eventually_sync(
            lambda: get("configmaps", "-n", "pymesh-later", "--field-selector", "metadata.name=pymesh-ca-root-cert"),
            what="the root in a namespace that is new",
        )
    finally:
        kubectl("delete", "namespace", "pymesh-later", "--wait=false")


def test_there_is_one_leader_and_another_one_when_it_goes(mesh: str) -> None:
    def leader() -> str:
        return str(get("lease", "pymesh-controlplane", "-n", SYSTEM)["spec"]["holderIdentity"])

    before = eventually_sync(leader, what="a leader", timeout=30)
    kubectl("-n", SYSTEM, "delete", "pod", before, "--wait=false")
    eventually_sync(lambda: leader() not in {"", before}, what="another leader", timeout=60, interval=0.5)
    cluster.rolled_out(SYSTEM, "deployment/pymesh-controlplane")


@pytest.mark.parametrize("plural", ["virtualservices.networking.istio.io", "ratelimits.policy.pymesh.io"])
def test_kinds_can_be_asked_for_by_their_short_names(mesh: str, plural: str) -> None:
    crd = get("crd", plural)
    [short] = crd["spec"]["names"]["shortNames"]
    assert "No resources found" in cluster.run(str(cluster.BIN / "kubectl"), "get", short, "-n", "kube-public").stderr
    kubectl("explain", short)


def test_nothing_but_restricted_pods_gets_into_the_system_namespace(mesh: str) -> None:
    assert "violates PodSecurity" in refused("apply", "-f", "-", text=cluster.with_images(PLAIN))
