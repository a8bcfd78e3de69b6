"""Pods in the mesh: who gets a sidecar, on every node, with its probes; Jobs that end; pods by their own names."""

import json

import pytest

from tests.cluster import cluster
from tests.cluster.cluster import (
    MANIFESTS,
    apply,
    curl_json,
    execute,
    get,
    kubectl,
    pods,
    pymesh,
    rolled_out,
)
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.usefixtures("workloads")

UNLABELLED = """
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: asked, %s}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "pymesh-samples:0.1.0", command: [sleep, infinity]}]
"""


def names(pod: cluster.Document) -> set[str]:
    """Of all of a pod's containers."""
    return {container["name"] for field in ("initContainers", "containers") for container in pod["spec"].get(field, ())}


def test_every_node_runs_pods_of_the_mesh() -> None:
    [everywhere] = get("daemonsets", "-n", "pymesh-test")
    wanted = everywhere["status"]["desiredNumberScheduled"]
    found = pods("pymesh-test", "app=everywhere")
    assert wanted >= 1
    assert len({pod["spec"]["nodeName"] for pod in found}) == wanted
    for pod in found:
        assert {"pymesh-init", "pymesh-proxy", "app"} == names(pod)
        assert cluster.is_ready(pod)
        [sidecar] = [c for c in pod["spec"]["initContainers"] if c["name"] == "pymesh-proxy"]
        assert sidecar["restartPolicy"] == "Always"
        assert sidecar["image"] == cluster.image("PYMESH_PROXY_IMAGE")


def test_every_proxy_has_taken_what_pilot_has_for_it() -> None:
    def settled() -> bool:
        proxies = json.loads(pymesh("status", "-o", "json"))["proxies"]
        assert len(proxies) >= 10, proxies
        return "NACKED" not in json.dumps(proxies)

    eventually_sync(settled, what="proxies of both namespaces and the gateways", timeout=60, interval=1)


def test_namespaces_and_pods_have_their_say() -> None:
    apply(UNLABELLED % ("says-yes", "pymesh-outside", 'sidecar.istio.io/inject: "true"'))
    apply(UNLABELLED % ("says-no", "pymesh-test", 'sidecar.istio.io/inject: "false"'))
    try:
        assert "pymesh-proxy" in names(get("pod", "says-yes", "-n", "pymesh-outside"))
        assert names(get("pod", "says-no", "-n", "pymesh-test")) == {"app"}
        assert names(get("pod", "outsider", "-n", "pymesh-outside")) == {"app"}
    finally:
        for namespace in ("pymesh-outside", "pymesh-test"):
            kubectl("-n", namespace, "delete", "pod", "-l", "app=asked", "--wait=false")


def test_a_job_has_the_network_from_its_init_container_on_and_ends() -> None:
    apply(MANIFESTS / "job.yaml")
    try:
        kubectl("-n", "pymesh-test", "wait", "--for=condition=Complete", "job/errand", "--timeout=120s", timeout=150)
        [pod] = get("pods", "-n", "pymesh-test", "-l", "job-name=errand")
        caller = "spiffe://cluster.local/ns/pymesh-test/sa/default"
        for container in ("first", "app"):
            told = kubectl("-n", "pymesh-test", "logs", pod["metadata"]["name"], "-c", container)
            assert json.loads(told)["caller"] == caller, container
    finally:
        kubectl("-n", "pymesh-test", "delete", "job", "errand", "--wait=false")


def test_pods_of_a_headless_service_are_reached_by_their_own_names_over_mtls() -> None:
    for index in (0, 1):
        url = f"http://shelf-{index}.shelf:9080"
        assert curl_json("pymesh-test", "client", f"{url}/reviews/0")["podname"] == f"shelf-{index}"
        assert curl_json("pymesh-test", "client", f"{url}/whoami")["caller"].endswith("/ns/pymesh-test/sa/client")


def test_no_probe_fails_once_an_app_is_up_not_even_under_strict() -> None:
    """The kubelet has no certificate; it asks the sidecar, which asks the app."""
    apply(MANIFESTS / "strict.yaml")
    try:
        kubectl("-n", "pymesh-test", "rollout", "restart", "daemonset/everywhere")
        rolled_out("pymesh-test", "daemonset/everywhere")
        for pod in pods("pymesh-test", "app=everywhere"):
            for container in pod["status"]["containerStatuses"]:
                assert (container["ready"], container["restartCount"]) == (True, 0)
        # A probe that asks where nobody answers would have failed within these seconds, five times in a row.
        [some, *_] = pods("pymesh-test", "app=everywhere")
        assert execute("pymesh-test", "client", "sleep", "8").returncode == 0
        after = get("pod", some["metadata"]["name"], "-n", "pymesh-test")
        assert [c["restartCount"] for c in after["status"]["containerStatuses"]] == [0]
    finally:
        kubectl("delete", "-f", str(MANIFESTS / "strict.yaml"))
