"""pymesh-controlplane as two replicas of a cluster, with the rights of the manifests and no others."""

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography import x509

from tests.e2e.controlplane import Running, running
from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.server import ApiServer
from tests.support.repository import ROOT
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

KUBECTL = str(Path(sys.executable).with_name("kubectl"))
BASE = ROOT / "deploy" / "kubernetes" / "base"
# Everything of it but the Deployment: that is what runs here.
MANIFESTS = ("namespace", "accounts", "checks", "concurrencylimits", "ratelimits", "services", "webhooks")
ACCOUNT = ("pymesh-system", "pymesh-controlplane")

NAMESPACE = "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n"
REVIEWS = """\
apiVersion: v1
kind: ServiceAccount
metadata: {name: reviews, namespace: default}
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, namespace: default, labels: {app: reviews}}
spec: {serviceAccountName: reviews, containers: [{name: app, image: app}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
"""


@dataclass
class Replica:
    """A pod of the control plane."""

    root: Path
    kubeconfig: Path
    name: str

    @property
    def root_cert(self) -> Path:
        """The mesh's root, as a pod would mount it from the ConfigMap."""
        return self.root / "root-cert.pem"

    def command(self, *more: str) -> list[str]:
        """As in the Deployment, on free ports of loopback."""
        return [
            sys.executable, "-m", "pymesh_controlplane", "--kubernetes", "--kubeconfig", str(self.kubeconfig),
            "--components", "pilot,citadel,galley,injector", "--listen", "127.0.0.1", "--xds-port", "0",
            "--tls-port", "0", "--http-port", "0", "--webhook-port", "0", *more,
        ]  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """Of its container."""
        return {"POD_NAME": self.name, "POD_NAMESPACE": "pymesh-system", "PROXY_IMAGE": "pymesh-proxy:0.1.0"}


@dataclass
class Cluster:
    """An API server, and the replicas by their pods' names."""

    api: ApiServer
    replicas: dict[str, Running]

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """What kubectl says, as the administrator."""
        command = [KUBECTL, "--kubeconfig", str(self.api.kubeconfig()), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, *documents: dict[str, Any] | str) -> None:
        """Apply manifests."""
        texts = [text if isinstance(text, str) else yaml.safe_dump(text) for text in documents]
        self.kubectl("apply", "-f", "-", given="---\n".join(texts))

    def one(self, group: str, plural: str, name: str, namespace: str = "") -> Object:
        """One object, as it is stored; AssertionError if there is none."""
        found = [item for item in self.api.objects(group, plural, namespace) if item["metadata"]["name"] == name]
        assert found, f"no {plural} {name}"
        return found[0]

    def leader(self) -> str:
        """Who holds the Lease."""
        return str(
            self.one("coordination.k8s.io", "leases", "pymesh-controlplane", "pymesh-system")["spec"]["holderIdentity"]
        )

    def root_in(self, namespace: str) -> str:
        """The root that pods of a namespace mount."""
        return str(self.one("", "configmaps", "pymesh-ca-root-cert", namespace)["data"]["root-cert.pem"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas that are ready."""
    with ApiServer() as api, ExitStack() as stack:
        found = Cluster(api, {})
        found.kubectl("apply", *(argument for name in MANIFESTS for argument in ("-f", str(BASE / f"{name}.yaml"))))
        kubeconfig = api.kubeconfig(api.account_token(*ACCOUNT))
        for name in ("pymesh-controlplane-a", "pymesh-controlplane-b"):
            replica = Replica(tmp_path_factory.mktemp(name), kubeconfig, name)
            found.replicas[name] = stack.enter_context(running(replica, environment=replica.environment))
        for process in found.replicas.values():
            eventually_sync(lambda process=process: process.get("/ready") == "ready\n", what="ready", timeout=30)  # type: ignore[misc]
        for service in ("galley", "injector"):
            port = found.replicas["pymesh-controlplane-a"].ports["webhooks"]
            api.route("pymesh-system", service, 443, ("127.0.0.1", port))
        for process in found.replicas.values():
            process.place.root_cert.write_text(eventually_sync(lambda: found.root_in("default"), what="the root"))
        yield found


def test_one_replica_leads_and_both_serve_one_root(cluster: Cluster) -> None:
    """The root in every namespace is that of the Secret."""
    assert cluster.leader() in cluster.replicas
    assert sorted(p.metric("controlplane_leader") for p in cluster.replicas.values()) == [0.0, 1.0]
    secret = cluster.one("", "secrets", "pymesh-ca", "pymesh-system")
    root = base64.b64decode(secret["data"]["ca-cert.pem"]).decode()
    for namespace in ("default", "kube-system", "pymesh-system"):
        assert eventually_sync(lambda n=namespace: cluster.root_in(n), what=namespace) == root  # type: ignore[misc]
    for kind, name in (("mutating", "pymesh-injector"), ("validating", "pymesh-galley")):
        found = cluster.one("admissionregistration.k8s.io", f"{kind}webhookconfigurations", name)
        assert {base64.b64decode(e["clientConfig"]["caBundle"]).decode() for e in found["webhooks"]} == {root}


def test_what_somebody_edits_or_deletes_is_repaired(cluster: Cluster) -> None:
    """The root in a namespace, and the webhooks' caBundle."""
    root = cluster.root_in("default")
    cluster.kubectl(
        "patch", "configmap", "pymesh-ca-root-cert", "--type=merge", "-p", '{"data": {"root-cert.pem": "x"}}'
    )
    eventually_sync(lambda: cluster.root_in("default") == root, what="the repaired root")
    cluster.kubectl("delete", "configmap", "pymesh-ca-root-cert")
    eventually_sync(lambda: cluster.root_in("default") == root, what="the root again")
    path = "/webhooks/0/clientConfig/caBundle"
    patch = json.dumps([{"op": "replace", "path": path, "value": base64.b64encode(b"x").decode()}])
    cluster.kubectl("patch", "validatingwebhookconfiguration", "pymesh-galley", "--type=json", "-p", patch)

    def repaired() -> bool:
        found = cluster.one("admissionregistration.k8s.io", "validatingwebhookconfigurations", "pymesh-galley")
        return base64.b64decode(found["webhooks"][0]["clientConfig"]["caBundle"]).decode() == root

    eventually_sync(repaired, what="the repaired caBundle")


def test_istios_kinds_are_made_and_say_whether_they_are_accepted(cluster: Cluster) -> None:
    """By the version; and what is said once is not said again."""
    cluster.apply(REVIEWS)

    def route(host: str, timeout: str = "5s") -> dict[str, Any]:
        http = [{"route": [{"destination": {"host": host}}], "timeout": timeout}]
        return {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "reviews", "namespace": "default"},
            "spec": {"hosts": ["reviews"], "http": http},
        }

    def said(generation: int) -> dict[str, Any]:
        found = cluster.one("networking.istio.io", "virtualservices", "reviews", "default")
        [condition] = found.get("status", {}).get("conditions") or [{}]
        assert condition.get("observedGeneration") == found["metadata"]["generation"] == generation
        return dict(condition)

    definition = ("apiextensions.k8s.io", "customresourcedefinitions", "virtualservices.networking.istio.io")
    eventually_sync(lambda: cluster.one(*definition), what="Istio's kinds")
    eventually_sync(lambda: cluster.apply(route("reviews")) or True, what="galley's yes")
    assert eventually_sync(lambda: said(1), what="the condition")["status"] == "True"
    cluster.apply(route("reviews", "6s"))
    cluster.apply(route("reviews", "7s"))
    assert eventually_sync(lambda: said(3), what="the condition of the third version")["status"] == "True"

    # What came past galley: as long as nobody can be asked, an administrator may have taken the webhook away.
    galley = cluster.one("admissionregistration.k8s.io", "validatingwebhookconfigurations", "pymesh-galley")
    cluster.kubectl("delete", "validatingwebhookconfiguration", "pymesh-galley")
    cluster.apply(route("nowhere"))
    condition = eventually_sync(lambda: said(4), what="galley's no")
    assert (condition["status"], condition["reason"]) == ("False", "Invalid")
    assert "there is no service nowhere.default.svc.cluster.local" in condition["message"]
    version = cluster.one("networking.istio.io", "virtualservices", "reviews", "default")["metadata"]["resourceVersion"]
    for field in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
        galley["metadata"].pop(field, None)
    cluster.apply(galley)
    cluster.apply(NAMESPACE.format(name="after"))
    eventually_sync(lambda: cluster.root_in("after"), what="a write after that")
    again = cluster.one("networking.istio.io", "virtualservices", "reviews", "default")["metadata"]["resourceVersion"]
    assert again == version


def test_a_pod_gets_its_certificate_for_its_own_token_from_either(cluster: Cluster) -> None:
    """And the audit says which pod it was."""
    cluster.apply(REVIEWS)
    token = cluster.api.account_token("default", "reviews", audiences=["istio-ca"], pod="reviews-1")
    for process in cluster.replicas.values():
        leaf = x509.load_pem_x509_certificate(process.sign(token)[0].encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
            "spiffe://cluster.local/ns/default/sa/reviews"
        ]
        assert "proof=token pod=reviews-1/" in process.log.read_text()
        assert token not in process.log.read_text()
    with pytest.raises(grpc.RpcError) as caught:
        process.sign(cluster.api.account_token("default", "reviews", pod="reviews-1"))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_while_the_api_server_is_away_everybody_keeps_what_they_have(cluster: Cluster) -> None:
    """A new caller is told to come again, and is not refused; it is served as soon as the API server is back."""
    cluster.apply(REVIEWS)
    token = cluster.api.account_token("default", "reviews", audiences=["istio-ca"], pod="reviews-1")
    process = cluster.replicas["pymesh-controlplane-a"]
    cluster.api.stop()
    try:
        with pytest.raises(grpc.RpcError) as caught:
            process.sign(token)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert process.get("/ready") == "ready\n"
    finally:
        cluster.api.start()
    assert len(process.sign(token)) == 2


def test_the_next_leads_at_once_when_the_leader_ends(cluster: Cluster) -> None:
    """By SIGTERM, as a rolling update sends it. Last, since it is one less then."""
    first = eventually_sync(cluster.leader, what="a leader", timeout=30)
    [second] = cluster.replicas.keys() - {first}
    leader = cluster.replicas[first]
    leader.process.send_signal(signal.SIGTERM)
    assert leader.process.wait(10) == 0
    eventually_sync(lambda: cluster.leader() == second, what="the next leader")
    cluster.apply(NAMESPACE.format(name="later"))
    eventually_sync(lambda: cluster.root_in("later"), what="the root in a new namespace")
