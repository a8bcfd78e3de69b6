"""Out again: nothing of the mesh stays. The last file of the suite, by its name."""

import pytest

from tests.cluster import cluster
from tests.cluster.cluster import SYSTEM, get, kubectl, pymesh
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.usefixtures("workloads")

EVERYWHERE = "clusterroles,clusterrolebindings,crds,mutatingwebhookconfigurations,validatingwebhookconfigurations"


def test_what_people_wrote_stays_unless_they_say_otherwise() -> None:
    said = pymesh("uninstall", timeout=240)
    assert "virtualservices.networking.istio.io" in said
    assert {found["metadata"]["name"] for found in get("virtualservices", "-n", "bookinfo")} >= {"reviews"}
    assert get("namespaces", "--field-selector", f"metadata.name={SYSTEM}") == []


def test_purged_nothing_is_left() -> None:
    pymesh("uninstall", "--purge", timeout=240)
    assert get(EVERYWHERE, "-l", "app.kubernetes.io/part-of=pymesh") == []
    eventually_sync(
        lambda: not get("configmaps", "-A", "--field-selector", "metadata.name=pymesh-ca-root-cert"),
        what="no root in any namespace", timeout=60, interval=1,
    )  # fmt: skip
    assert "there is nothing of a mesh" in cluster.run(str(cluster.BIN / "pymesh"), "uninstall").stderr


def test_pods_start_without_a_sidecar_then() -> None:
    kubectl("-n", "bookinfo", "rollout", "restart", "deployment/details-v1")
    cluster.rolled_out("bookinfo", "deployment/details-v1")
    [pod] = cluster.pods("bookinfo", "app=details")
    assert [container["name"] for container in pod["spec"]["containers"]] == ["details"]
    assert "initContainers" not in pod["spec"]
