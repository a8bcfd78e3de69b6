"""The operator's commands about a cluster: an API server, two replicas of the control plane, a collector, two proxies.

What a kubelet would do is done here: pods are ready when their process is, and forwards into them lead to it.
"""

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
import yaml

from pymesh_controlplane.kube.api import Api
from pymesh_controlplane.kube.handshake import valid_until
from pymesh_controlplane.kube.kubeconfig import load
from pymesh_controlplane.kube.portforward import forward
from tests.e2e.controlplane import Running, running
from tests.e2e.test_controlplane import Proxy
from tests.e2e.test_kubernetes_controlplane import ACCOUNT, BASE, KUBECTL, MANIFESTS, Replica
from tests.support.kubernetes.requests import User
from tests.support.kubernetes.server import ApiServer
from tests.support.mesh import PYMESH
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

SYSTEM = "pymesh-system"
REPLICAS = ("pymesh-controlplane-a", "pymesh-controlplane-b")
SHOP = (Path(__file__).parent / "manifests" / "cluster-shop.yaml").read_text()


@dataclass
class Collector(Replica):
    """The pod of telemetry: pages, and nobody who reports."""

    def command(self, *more: str) -> list[str]:
        """As in its Deployment, on free ports of loopback."""
        return [
            sys.executable, "-m", "pymesh_controlplane", "--kubernetes", "--components", "telemetry",
            "--listen", "127.0.0.1", "--http-port", "0", "--mesh-port", "0", *more,
        ]  # fmt: skip


@dataclass
class Cluster:
    """What the tests need of it. `kubeconfig` is the administrator's."""

    api: ApiServer
    kubeconfig: Path
    replicas: dict[str, Running]

    def kubectl(self, *arguments: str, given: str = "") -> str:
        command = [KUBECTL, "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pymesh(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [PYMESH, *arguments, "--kubeconfig", str(self.kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def weights(self) -> list[int]:
        found = json.loads(self.kubectl("get", "virtualservice", "shop", "-o", "json"))
        return [item.get("weight", 0) for item in found["spec"]["http"][0]["route"]]


def ready_pod(cluster: Cluster, name: str, app: str, port: int) -> None:
    """A pod that a kubelet says is ready, and that forwards to a process."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {
        "name": app, "image": "pymesh-controlplane:0.1.0",
        "securityContext": {**context, "seccompProfile": {"type": "RuntimeDefault"}},
    }  # fmt: skip
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM, "labels": {"app": app}},
        "spec": {"serviceAccountName": "pymesh-controlplane", "containers": [container]},
    }  # fmt: skip
    cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(pod))
    set_status(cluster, SYSTEM, name, conditions=[{"type": "Ready", "status": "True"}])
    cluster.api.forward(SYSTEM, name, 15014, ("127.0.0.1", port))


def set_status(cluster: Cluster, namespace: str, pod: str, **fields: object) -> None:
    """Say of a pod what a kubelet would."""
    status = json.dumps({"status": {"phase": "Running", **fields}})
    cluster.kubectl("patch", "pod", pod, "-n", namespace, "--subresource=status", "--type=merge", "-p", status)


def deployment_ready(cluster: Cluster) -> None:
    """The Deployment as its controller would have it."""
    [document, _] = yaml.safe_load_all((BASE / "controlplane.yaml").read_text())
    cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(document))
    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas", "readyReplicas"), 2)
    status = json.dumps({"status": {**counts, "observedGeneration": 1}})
    names = ("patch", "deployment", "pymesh-controlplane", "-n", SYSTEM)
    cluster.kubectl(*names, "--subresource=status", "--type=merge", "-p", status)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ApiServer() as api, ExitStack() as stack:
        found = Cluster(api, api.kubeconfig(), {})
        found.kubectl("apply", *(argument for name in MANIFESTS for argument in ("-f", str(BASE / f"{name}.yaml"))))
        kubeconfig = api.kubeconfig(api.account_token(*ACCOUNT))
        for name in REPLICAS:
            place = Replica(tmp_path_factory.mktemp(name), kubeconfig, name)
            found.replicas[name] = stack.enter_context(running(place, environment=place.environment))
        collector = Collector(tmp_path_factory.mktemp("telemetry"), kubeconfig, "telemetry-a")
        pages = stack.enter_context(running(collector, environment=collector.environment))
        for name, process in found.replicas.items():
            eventually_sync(lambda process=process: process.get("/ready") == "ready\n", what="ready", timeout=30)  # type: ignore[misc]
            ready_pod(found, name, "pymesh-controlplane", process.ports["http"])
            api.forward(SYSTEM, name, 15017, ("127.0.0.1", process.ports["webhooks"]))
        for service in ("galley", "injector"):
            port = found.replicas[REPLICAS[0]].ports["webhooks"]
            api.route(SYSTEM, service, 443, ("127.0.0.1", port))
        ready_pod(found, "telemetry-a", "telemetry", pages.ports["http"])
        deployment_ready(found)
        eventually_sync(lambda: not missing(found), what="the CRDs", timeout=30)
        eventually_sync(lambda: applied(found), what="the sample to be accepted", timeout=30)
        for version in (1, 2):
            set_status(found, "default", f"shop-v{version}", podIP=f"10.244.0.{version}")
        for index, process in enumerate(found.replicas.values()):
            stack.enter_context(listening(process, f"web-{index}"))
        yield found


def missing(cluster: Cluster) -> bool:
    return "virtualservices" not in cluster.kubectl("api-resources", "-o", "name")


def applied(cluster: Cluster) -> bool:
    with suppress(AssertionError):
        cluster.kubectl("apply", "-f", "-", given=SHOP)
        return True
    return False


class listening:  # noqa: N801  used as a context manager, beside functions that are
    """A proxy that takes whatever pilot sends, connected to one replica."""

    def __init__(self, process: Running, name: str) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{process.ports['xds']}")
        self._proxy = Proxy(self._channel, None, name=name)
        self._thread = threading.Thread(target=self._hear)

    def _hear(self) -> None:
        with suppress(grpc.RpcError, StopIteration):
            while True:
                self._proxy.hear()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._proxy.close()
        self._thread.join()
        self._channel.close()


def test_the_status_is_that_of_all_replicas(cluster: Cluster) -> None:
    def seen() -> list[tuple[str, str]]:
        document = json.loads(cluster.pymesh("status", "-o", "json").stdout)
        return sorted((proxy["proxy"], proxy["pilot"]) for proxy in document["proxies"])

    expected = [(f"web-{index}.default", name) for index, name in enumerate(REPLICAS)]
    eventually_sync(lambda: seen() == expected, what="both proxies", timeout=30)
    lines = cluster.pymesh("status", "-A").stdout.splitlines()
    assert lines[0].split() == ["PROXY", "KIND", "CDS", "EDS", "LDS", "RDS", "PILOT", "ERROR"]
    assert REPLICAS[1] in lines[2]
    assert len(cluster.pymesh("status", "-n", "elsewhere").stdout.splitlines()) == 1


def test_the_collectors_pages_are_asked_through_the_api_server(cluster: Cluster) -> None:
    graph = cluster.pymesh("graph", "-o", "json")
    assert json.loads(graph.stdout)["edges"] == []
    assert "no traffic in the last" in graph.stderr
    assert json.loads(cluster.pymesh("requests", "-o", "json", "--last", "3").stdout) == []
    journey = cluster.pymesh("journey", "nobodys", check=False)
    assert journey.returncode == 1
    assert "pymesh: no proxy has a record of nobodys" in journey.stderr


def test_a_shift_changes_the_weights_and_waits_for_every_replica(cluster: Cluster) -> None:
    assert cluster.weights() == [100, 0]
    done = cluster.pymesh("shift", "shop", "--to", "v2", "--step", "50%", "--every", "1s", "-o", "json")
    report = json.loads(done.stdout)
    assert (report["outcome"], [step["share"] for step in report["steps"]]) == ("shifted", [50, 100])
    assert cluster.weights() == [0, 100]
    stored = json.loads(cluster.kubectl("get", "virtualservice", "shop", "-o", "json"))
    assert "kubectl.kubernetes.io/last-applied-configuration" in stored["metadata"]["annotations"]
    cluster.kubectl("apply", "-f", "-", given=SHOP)


def test_ctrl_c_goes_back_and_what_somebody_else_edits_stays(cluster: Cluster) -> None:
    command = [PYMESH, "shift", "shop", "--to", "v2", "--step", "30%", "--every", "1h"]
    command += ["--kubeconfig", str(cluster.kubeconfig)]
    before = cluster.weights()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        eventually_sync(lambda: cluster.weights() == [70, 30], what="the first step", timeout=30)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, cluster.weights()) == (130, before)
    assert out.endswith("went back: interrupted; everything is as it was before\n")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        eventually_sync(lambda: cluster.weights() == [70, 30], what="the first step", timeout=30)
        theirs = [{"op": "replace", "path": "/spec/http/0/route/1/weight", "value": 40}]
        cluster.kubectl("patch", "virtualservice", "shop", "--type=json", "-p", json.dumps(theirs))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert "VirtualService default/shop was changed by somebody else; it stays as they left it" in out
    assert (process.returncode, cluster.weights()) == (130, [70, 40])
    cluster.kubectl("apply", "-f", "-", given=SHOP)


def test_manifests_are_judged_next_to_what_is_in_force(cluster: Cluster, tmp_path: Path) -> None:
    manifest = tmp_path / "routes.yaml"
    manifest.write_text(SHOP.replace("subset: v2}, weight: 0", "subset: v9}, weight: 0"))
    done = cluster.pymesh("validate", "-f", str(manifest), check=False)
    assert done.returncode == 1
    assert "DestinationRule default/shop has no subset 'v9'" in done.stdout


def test_check_finds_nothing_wrong_and_then_what_is(cluster: Cluster) -> None:
    """Both replicas show the API server a certificate that the webhooks' caBundle vouches for."""
    fine = cluster.pymesh("check", "-o", "json", check=False)
    assert (fine.returncode, json.loads(fine.stdout)) == (0, {"context": "test", "findings": []})
    other = cluster.api.authority.root.decode()
    with Api(load([cluster.kubeconfig])) as api, forward(api, SYSTEM, REPLICAS[1], 15017) as stream:  # noqa: SIM117
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            valid_until(stream, other, "injector.pymesh-system.svc")
    cluster.kubectl("label", "namespace", "default", "istio-injection=enabled")
    try:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", "pymesh-injector")
        wrong = cluster.pymesh("check", check=False)
        assert wrong.returncode == 1
        assert (
            "error: MutatingWebhookConfiguration pymesh-injector: is not there: no pod gets a sidecar" in wrong.stdout
        )
        assert "warning: Namespace default: pods without a sidecar, though they should have one: " in wrong.stdout
        assert "note: Services: ports that do not say what is spoken on them: default/shop web" in wrong.stdout
    finally:
        cluster.kubectl("label", "namespace", "default", "istio-injection-")
        cluster.kubectl("apply", "-f", str(BASE / "webhooks.yaml"))
    before = cluster.pymesh("check", "--pre")
    assert before.stdout.endswith("context test: a mesh can be installed\n")


def test_a_pod_that_cannot_be_looked_into_is_no_fault_of_the_webhook(cluster: Cluster) -> None:
    """Its port takes connections, and ends them before the handshake does; both looks are counted."""
    with socket.create_server(("127.0.0.1", 0)) as closing:
        taken = []
        thread = threading.Thread(target=lambda: taken.extend(_turned_away(closing)))
        thread.start()
        cluster.api.forward(SYSTEM, REPLICAS[1], 15017, closing.getsockname())
        try:
            done = cluster.pymesh("check", "-o", "json")
        finally:
            port = cluster.replicas[REPLICAS[1]].ports["webhooks"]
            cluster.api.forward(SYSTEM, REPLICAS[1], 15017, ("127.0.0.1", port))
            closing.shutdown(socket.SHUT_RDWR)
            thread.join()
    found = json.loads(done.stdout)["findings"]
    assert {item["severity"] for item in found} == {"warning"}
    assert len(found) == 2  # of either webhook
    assert all(f"fits {REPLICAS[1]} could not be looked at, twice" in item["problem"] for item in found)
    assert len(taken) == 4


def _turned_away(server: socket.socket) -> Iterator[None]:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        connection.close()
        yield None


def test_who_may_not_is_told_what_is_missing(cluster: Cluster) -> None:
    """Somebody who may see pods, and not enter them; and somebody who may nothing."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "looker"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
    }  # fmt: skip
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "looker"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "looker"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "lara"}],
    }  # fmt: skip
    cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump_all([role, binding]))
    known = ("system:authenticated",)
    lara = replace(cluster, kubeconfig=cluster.api.kubeconfig(cluster.api.token_for(User("lara", known))))
    status = lara.pymesh("status", check=False)
    assert status.returncode == 1
    assert "not permitted: " in status.stderr
    assert "it takes the verbs get and create on pods/portforward in this namespace" in status.stderr
    nobody = replace(cluster, kubeconfig=cluster.api.kubeconfig(cluster.api.token_for(User("noah", known))))
    shift = nobody.pymesh("shift", "shop", "--to", "v2", check=False)
    assert "context test: not permitted: " in shift.stderr
    assert 'User "noah" cannot list resource' in shift.stderr
    check = nobody.pymesh("check", "--pre", check=False)
    assert check.returncode == 1
    assert "error: permissions: you may not " in check.stdout


def test_a_new_root_reaches_the_other_replica_the_bundles_and_no_signature_too_early(cluster: Cluster) -> None:
    """By the rights of the control plane's own account. What is left of the rotation is as on one machine."""

    def roots(replica: str) -> list[str]:
        return [root["fingerprint"] for root in json.loads(cluster.replicas[replica].get("/ca"))["roots"]]

    before = json.loads(cluster.pymesh("ca", "status", "-o", "json").stdout)
    assert (before["replicas"], before["place"], len(before["roots"])) == (2, f"Secret {SYSTEM}/pymesh-ca", 1)
    assert cluster.pymesh("ca", "rotate").stdout.startswith("distribute: a new root is made")
    eventually_sync(
        lambda: len(roots(REPLICAS[0])) == 2 and roots(REPLICAS[0]) == roots(REPLICAS[1]),
        what="both replicas to trust both roots", timeout=20,
    )  # fmt: skip
    assert roots(REPLICAS[0])[0] == before["roots"][0]["fingerprint"], "the old one signs on"

    def bundle() -> str:
        names = ("get", "configmap", "pymesh-ca-root-cert", "-n", "default", "-o", "json")
        return str(json.loads(cluster.kubectl(*names))["data"]["root-cert.pem"])

    eventually_sync(lambda: bundle().count("BEGIN CERTIFICATE") == 2, what="the ConfigMap with both", timeout=20)
    early = cluster.pymesh("ca", "rotate", check=False)
    assert (early.returncode, early.stdout) == (1, "")
    assert "sign would be too early: " in early.stderr
    assert "pods that start get the roots as a file, which takes until" in early.stderr
