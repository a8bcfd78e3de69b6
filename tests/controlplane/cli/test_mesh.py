"""Which pod and which container of a local mesh a person means."""

from typing import Any

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli.mesh import LocalMesh, container_of


def row(name: str, owner: str = "web", namespace: str = "shop", *, is_ready: bool = True) -> dict[str, Any]:
    return {"name": name, "owner": owner, "namespace": namespace, "is_ready": is_ready}


def find(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], name: str, namespace: str = "") -> str:
    monkeypatch.setattr(LocalMesh, "rows", lambda _: rows)
    return str(LocalMesh("none").find_pod(name, namespace)["name"])


def test_of_a_deployment_a_pod_that_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("web-1", is_ready=False), row("web-2"), row("web-3", is_ready=False)]
    assert find(monkeypatch, rows, "web") == "web-2"
    assert find(monkeypatch, rows, "web-3") == "web-3"
    assert find(monkeypatch, rows[:1], "web") == "web-1"


def test_a_name_that_is_in_several_namespaces_or_in_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("web-1"), row("web-2", namespace="store")]
    assert find(monkeypatch, rows, "web", "store") == "web-2"
    with pytest.raises(MeshError, match="web is in several namespaces; say which with -n"):
        find(monkeypatch, rows, "web")
    with pytest.raises(MeshError, match="no pod db; there are: shop/web-1, store/web-2"):
        find(monkeypatch, rows, "db")


@pytest.mark.parametrize(
    ("containers", "meant"),
    [
        (["app", "helper"], "app"),
        (["pymesh-proxy", "app"], "app"),
        (["pymesh-agent", "envoy", "app"], "app"),
        (["pymesh-proxy"], "pymesh-proxy"),
    ],
)
def test_the_app_is_meant_where_nothing_is_said(containers: list[str], meant: str) -> None:
    pod = {"name": "web-1", "container_names": containers, "init_container_names": ["pymesh-init"]}
    assert container_of(pod, "") == meant
    assert container_of(pod, "pymesh-init") == "pymesh-init"
    with pytest.raises(MeshError, match="pod web-1 has no container db; there are: "):
        container_of(pod, "db")
