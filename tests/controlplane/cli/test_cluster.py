"""A mesh in a cluster from the outside: objects, preconditions, and what goes wrong in words, at an API server."""

import copy
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pymesh.errors import MeshError
from pymesh.resources.resource import Key
from pymesh_controlplane.cli import bundle
from pymesh_controlplane.cli.client import Absent, Changed, Refused
from pymesh_controlplane.cli.cluster import Cluster
from pymesh_controlplane.kube import portforward
from pymesh_controlplane.kube.api import Api, ApiError
from pymesh_controlplane.kube.kubeconfig import load
from pymesh_controlplane.local.texts import Text
from tests.support.kubernetes.requests import User
from tests.support.kubernetes.server import ApiServer
from tests.support.waiting import eventually_sync

KEY = Key("VirtualService", "shop", "shop")
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "shop", "namespace": "shop"},
    "spec": {"selector": {"app": "shop"}, "ports": [{"name": "http", "port": 80}]},
}


def virtual_service(weights: tuple[int, int] = (100, 0), name: str = "shop") -> dict[str, Any]:
    destinations = [
        {"destination": {"host": "shop", "subset": subset}, "weight": weight}
        for subset, weight in zip(("v1", "v2"), weights, strict=True)
    ]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "shop", "annotations": {"note": "x" * 5000}},
        "spec": {"hosts": ["shop"], "http": [{"route": destinations}]},
    }


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running, Api(load([running.kubeconfig()])) as api:
        for crd in [*bundle.crds(), *(item for item in bundle.documents(()) if "CustomResource" in item["kind"])]:
            api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        for name in ("shop", "pymesh-system"):
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            eventually_sync(lambda body=body, name=name: _made(api, name, body), what=f"namespace {name}")
        api.create("/api/v1/namespaces/shop/services", SERVICE)
        yield running


def _made(api: Api, name: str, body: dict[str, Any]) -> bool:
    return api.find(f"/api/v1/namespaces/{name}") is not None or bool(api.create("/api/v1/namespaces", body))


@pytest.fixture
def cluster(server: ApiServer) -> Iterator[Cluster]:
    with Api(load([server.kubeconfig(namespace="shop")])) as api, Cluster(api) as found:
        eventually_sync(lambda: bool(Cluster(api).paths.version("VirtualService")), what="the CRDs to be served")
        api.create(found.paths.of("VirtualService", "shop"), virtual_service())
        yield found
        for item in found.objects({"VirtualService", "DestinationRule"}):
            metadata = found.api.get(found.paths.of(item["kind"], "shop", item["metadata"]["name"]))["metadata"]
            path = found.paths.of(item["kind"], "shop", item["metadata"]["name"])
            api.delete(path, uid=metadata["uid"], version=metadata["resourceVersion"])


def there(cluster: Cluster, name: str = "shop") -> dict[str, Any]:
    [found] = [item for item in cluster.objects({"VirtualService"}) if item["metadata"]["name"] == name]
    return found


def edited(cluster: Cluster, change: dict[str, Any]) -> None:
    """Somebody else changes the object."""
    path = cluster.paths.of(*KEY)
    cluster.api.replace(path, {**cluster.api.get(path), **change})


def test_objects_are_those_of_all_namespaces_as_pilot_reads_them(cluster: Cluster) -> None:
    found = cluster.objects({"Service", "VirtualService", "RateLimit"}, "shop")
    assert [(item["kind"], item["metadata"]["name"]) for item in found] == [
        ("Service", "shop"),
        ("VirtualService", "shop"),
    ]
    assert "managedFields" not in found[1]["metadata"]
    assert "status" not in found[1]
    assert cluster.namespace == "shop"


def test_a_change_takes_the_place_of_what_it_was_made_from_and_keeps_the_rest(cluster: Cluster) -> None:
    before = there(cluster)
    wanted = copy.deepcopy(before)
    wanted["spec"]["http"][0]["route"] = virtual_service((50, 50))["spec"]["http"][0]["route"]
    done = cluster.put({KEY: wanted}, [(tuple(KEY), before)])
    assert done[KEY]["spec"] == wanted["spec"]
    assert there(cluster) == done[KEY]
    stored = cluster.api.get(cluster.paths.of(*KEY))
    assert stored["metadata"]["annotations"] == {"note": "x" * 5000}  # which was left out of what was read


def test_what_somebody_else_has_changed_is_left(cluster: Cluster) -> None:
    before = there(cluster)
    edited(cluster, {"spec": virtual_service((70, 30))["spec"]})
    with pytest.raises(Changed, match=r"VirtualService shop/shop was changed by somebody else; nothing was changed"):
        cluster.put({KEY: {**before, "spec": virtual_service((0, 100))["spec"]}}, [(tuple(KEY), before)])
    assert there(cluster)["spec"] == virtual_service((70, 30))["spec"]
    with pytest.raises(Changed, match="was changed"):
        cluster.remove(KEY, [(tuple(KEY), before)])


def test_the_status_that_the_mesh_writes_back_is_nobodys_change(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between the look and the change: the resourceVersion is another one, and what people say is not."""
    before = there(cluster)
    replace, writes = cluster.api.replace, [0]

    def racing(path: str, document: Any) -> Any:
        writes[0] += 1
        if writes[0] == 1:
            stored = cluster.api.get(path)
            replace(f"{path}/status", {**stored, "status": {"conditions": []}})
        return replace(path, document)

    monkeypatch.setattr(cluster.api, "replace", racing)
    done = cluster.put({KEY: {**before, "spec": virtual_service((0, 100))["spec"]}}, [(tuple(KEY), before)])
    assert done[KEY]["spec"] == virtual_service((0, 100))["spec"]


def test_of_several_changes_all_come_into_force_or_none(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Key("VirtualService", "shop", "other")
    cluster.api.create(cluster.paths.of("VirtualService", "shop"), virtual_service(name="other"))
    before = {KEY: there(cluster), other: there(cluster, "other")}
    wanted = {key: {**document, "spec": virtual_service((0, 100))["spec"]} for key, document in before.items()}
    replace = cluster.api.replace

    def racing(path: str, document: Any) -> Any:
        if path.endswith("/other"):
            stored = cluster.api.get(path)
            replace(path, {**stored, "spec": virtual_service((1, 99))["spec"]})
        return replace(path, document)

    monkeypatch.setattr(cluster.api, "replace", racing)
    with pytest.raises(Changed, match="VirtualService shop/other was changed"):
        cluster.put(wanted, [(tuple(key), document) for key, document in before.items()])
    assert there(cluster)["spec"] == before[KEY]["spec"]
    assert there(cluster, "other")["spec"] == virtual_service((1, 99))["spec"]


def test_what_is_new_is_made_once_and_taken_away_again(cluster: Cluster) -> None:
    key = Key("VirtualService", "shop", "new")
    made = cluster.put({key: virtual_service(name="new")}, [(tuple(key), None)])[key]
    with pytest.raises(Changed, match="VirtualService shop/new is there meanwhile by somebody else"):
        cluster.put({key: virtual_service(name="new")}, [(tuple(key), None)])
    cluster.remove(key, [(tuple(key), made)])
    with pytest.raises(Changed, match="VirtualService shop/new was deleted by somebody else"):
        cluster.remove(key, [(tuple(key), made)])


def test_manifests_are_judged_next_to_what_is_in_force(cluster: Cluster) -> None:
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec: {host: shop, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: elsewhere}
spec: {hosts: [shopp], http: [{route: [{destination: {host: shopp}}]}]}
"""
    problems = cluster.validate([Text("rule.yaml", "/", rule)], "shop")
    texts = [(problem["severity"], problem["line"], problem["sentence"]) for problem in problems]
    assert ("warning", 8, "not a kind that the mesh reads: not judged") in texts
    assert any(severity == "error" and "there is no service shopp" in sentence for severity, _, sentence in texts)


def test_a_mesh_that_is_not_there_is_told_with_the_command_that_adds_it(cluster: Cluster) -> None:
    with pytest.raises(Absent, match=r"context test: namespace pymesh-system has no telemetry: pymesh install --only"):
        cluster.telemetry("graph", {"window": 60})
    with pytest.raises(Absent, match=r"has no pymesh-controlplane: pymesh install installs it"):
        cluster.pilots()


def test_a_mesh_that_is_scaled_to_0_is_not_told_to_be_missing(cluster: Cluster) -> None:
    deployments = [item for item in bundle.documents(("telemetry",)) if item["kind"] == "Deployment"]
    for document in deployments:
        off = {"replicas": 0} if document["metadata"]["name"] == "telemetry" else {}
        cluster.api.create(
            cluster.paths.of("Deployment", "pymesh-system"), {**document, "spec": {**document["spec"], **off}}
        )
    try:
        scaled = r"telemetry is scaled to 0: kubectl -n pymesh-system scale deployment/telemetry --replicas=1$"
        with pytest.raises(Absent, match=scaled):
            cluster.telemetry("graph", {"window": 60})
        with pytest.raises(Refused, match=r"pymesh-system has no pod of pymesh-controlplane: .*; pymesh check may say"):
            cluster.pilots()
    finally:
        for document in deployments:
            path = cluster.paths.of("Deployment", "pymesh-system", document["metadata"]["name"])
            cluster.api.delete(path, uid=cluster.api.get(path)["metadata"]["uid"])


def test_a_token_that_nobody_knows_and_a_server_that_is_away_are_told_apart(server: ApiServer) -> None:
    with Api(load([server.kubeconfig("expired")])) as api:  # noqa: SIM117  the server's answer is what is tested
        with pytest.raises(
            ApiError, match=r"does not take the credentials \(401\): the token .* of user test"
        ) as caught:
            api.get("/api/v1/namespaces")
    assert "expired" not in str(caught.value).replace("has expired", "")
    away = _moved(server.kubeconfig(), server.url, "https://127.0.0.1:1")
    with Api(load([away])) as api, pytest.raises(ApiError, match=r"https://127\.0\.0\.1:1 does not answer .*refused"):
        api.get("/api/v1/namespaces")


def test_a_server_with_another_certificate_is_not_believed(server: ApiServer) -> None:
    with ApiServer() as other:
        moved = _moved(server.kubeconfig(), server.url, other.url)
        with Api(load([moved])) as api, pytest.raises(ApiError, match="is not the one that the kubeconfig knows"):
            api.get("/api/v1/namespaces")


def test_what_is_not_permitted_is_told_by_verb_and_resource(server: ApiServer) -> None:
    token = server.token_for(User("jane", ("system:authenticated",)))
    with Api(load([server.kubeconfig(token)])) as api, Cluster(api) as cluster:
        sentence = r'context test: not permitted: pods is forbidden: User "jane" cannot list resource "pods"'
        with pytest.raises(MeshError, match=sentence):
            cluster.telemetry("graph", {"window": 60})
        assert cluster.pods() == {}
        assert not api.may("list", "", "pods")


def _moved(kubeconfig: Path, before: str, after: str) -> Path:
    kubeconfig.write_text(kubeconfig.read_text().replace(before, after))
    return kubeconfig


def test_a_sidecar_that_may_not_be_asked_is_told_with_the_reason(cluster: Cluster, server: ApiServer) -> None:
    """Such as the verb that is missing; docs/kubernetes.md promises it."""
    path = "/api/v1/namespaces/shop/pods"
    body = {"metadata": {"name": "shop-1"}, "spec": {"containers": [{"name": "pymesh-proxy", "image": "x"}]}}
    made = cluster.api.create(path, {"apiVersion": "v1", "kind": "Pod", **body})
    try:
        found = cluster._ask_sidecar("shop", "shop-1", "/requests")
        assert found.pod == "shop/shop-1"
        assert "shop-1" in found.reason
        with (
            Api(load([server.kubeconfig(server.token_for(User("nobody", ("system:authenticated",))))])) as api,
            Cluster(api) as stranger,
        ):
            answer = stranger._ask_sidecar("shop", "shop-1", "/requests")
        assert "pods/portforward" in answer.reason
    finally:
        cluster.api.delete(f"{path}/shop-1", uid=made["metadata"]["uid"])


@contextmanager
def collector(cluster: Cluster, server: ApiServer, *, closing: bool) -> Iterator[list[socket.socket]]:
    """A pod of the collector that is ready and answers nothing, or hangs up; who has connected to it."""
    path, taken = cluster.paths.of("Pod", "pymesh-system"), list[socket.socket]()
    labels = {"name": "telemetry-a", "labels": {"app": "telemetry"}}
    container = {"name": "telemetry", "image": "x"}
    made = cluster.api.create(path, {"metadata": labels, "spec": {"containers": [container]}})
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    cluster.api.replace(f"{path}/telemetry-a/status", {**made, "status": status})

    def accept() -> None:
        with suppress(OSError):  # the end of the test
            while True:
                connection, _ = listening.accept()
                taken.append(connection)
                if closing:
                    connection.recv(65536)
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.forward("pymesh-system", "telemetry-a", 15014, listening.getsockname())
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield taken
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()
            cluster.api.delete(f"{path}/telemetry-a", uid=made["metadata"]["uid"])


def test_a_pod_is_asked_again_where_the_connection_broke_and_not_where_it_took_too_long(
    cluster: Cluster, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person is told of a pod that does not answer after one wait for it, not after two."""
    monkeypatch.setattr(portforward, "READ_TIMEOUT", 0.3)
    with collector(cluster, server, closing=False) as taken:
        with pytest.raises(ApiError, match=r"pymesh-system/telemetry-a port 15014: no answer within 0\.3 s"):
            cluster.telemetry("graph", {"window": 60})
        assert len(taken) == 1
    with collector(cluster, server, closing=True) as taken:
        with pytest.raises(ApiError, match="closed the connection without an answer"):
            cluster.telemetry("graph", {"window": 60})
        assert len(taken) == 2
