"""What is applied: all of it or nothing, and what pilot then sees."""

import json
from pathlib import Path

import pytest
import yaml

from pymesh.errors import MeshError
from pymesh.resources.parse import Parsed
from pymesh.resources.resource import Key
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import inject
from pymesh_controlplane.local import judge as judge_module
from pymesh_controlplane.local.store import RefusedError, Store
from pymesh_controlplane.local.texts import Text
from pymesh_controlplane.sources.files import MAX_FILE_BYTES, Files

POD = """
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, command: [sleep, infinity]}]}
"""
ACCOUNT = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: web}}\n"
CONFIG = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {mode: 'on'}}\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for name in ("applied", "secrets", "tmp"):
        (tmp_path / name).mkdir()
    return Store(tmp_path / "applied", tmp_path / "secrets", tmp_path / "tmp", InjectionConfig())


def apply(store: Store, *texts: str, namespace: str = "default") -> list[tuple[str, str]]:
    found, _ = store.read([Text(f"{n}.yaml", "/srv", text) for n, text in enumerate(texts)], namespace)
    return [(str(key), outcome) for key, outcome in store.apply(found)]


def test_what_is_applied_is_told_and_shown(store: Store, tmp_path: Path) -> None:
    assert apply(store, ACCOUNT, namespace="shop") == [("ServiceAccount shop/web", "created")]
    assert apply(store, ACCOUNT, namespace="shop") == [("ServiceAccount shop/web", "unchanged")]
    changed = ACCOUNT.replace("name: web", "name: web, labels: {a: b}")
    assert apply(store, changed, namespace="shop") == [("ServiceAccount shop/web", "configured")]
    [path] = (tmp_path / "applied").iterdir()
    assert json.loads(path.read_text())["metadata"] == {"name": "web", "labels": {"a": "b"}, "namespace": "shop"}
    store.delete(Key("ServiceAccount", "shop", "web"))
    assert list((tmp_path / "applied").iterdir()) == []
    with pytest.raises(KeyError):
        store.delete(Key("ServiceAccount", "shop", "web"))


def test_pods_and_services_are_shown_as_observed_only(store: Store, tmp_path: Path) -> None:
    apply(store, POD)
    assert list((tmp_path / "applied").iterdir()) == []
    assert store.of_kind("Pod")[0].workload is not None


def test_one_mistake_refuses_everything_and_every_mistake_is_told(store: Store, tmp_path: Path) -> None:
    broken = POD.replace("command", "comand")
    with pytest.raises(RefusedError) as refused:
        apply(store, ACCOUNT, "a: [", broken, ACCOUNT)
    text = str(refused.value)
    assert "1.yaml:" in text
    assert "malformed YAML" in text
    assert "2.yaml:5:" in text
    assert "unknown field 'comand'" in text
    assert "there twice, first at 0.yaml:1:1" in text
    assert store.items == {}
    assert list((tmp_path / "applied").iterdir()) == []


def test_a_pod_that_cannot_get_its_sidecar_is_refused(store: Store) -> None:
    injected = POD.replace("app: client", "sidecar.istio.io/inject: 'maybe'")
    with pytest.raises(RefusedError, match='write "true" or "false"'):
        apply(store, injected)
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {istio-injection: enabled}}}"
    conflicting = POD.replace("containers:", "securityContext: {}, containers:").replace(
        "name: c,", "name: pymesh-proxy,"
    )
    assert apply(store, conflicting)
    with pytest.raises(RefusedError, match="belongs to the sidecar"):
        apply(store, namespace, conflicting)


@pytest.mark.parametrize("place", ["pod", "container", "template"])
def test_the_sidecars_user_is_not_for_pods_without_a_sidecar(store: Store, place: str) -> None:
    context, path = "securityContext: {runAsUser: 1337}", "spec.containers[0].securityContext.runAsUser"
    text = POD.replace("name: c,", f"name: c, {context},")
    if place == "pod":
        text, path = POD.replace("containers:", f"{context}, containers:"), "spec.securityContext.runAsUser"
    elif place == "template":
        text = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: d}}
spec:
  selector: {{matchLabels: {{a: b}}}}
  template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, command: [x], {context}}}]}}}}
"""
        path = f"spec.template.{path}"
    with pytest.raises(RefusedError, match="uid 1337 is the sidecars'") as refused:
        apply(store, text)
    assert [error.path for error in refused.value.errors] == [path]
    assert apply(store, text, namespace="pymesh-system")
    assert apply(store, text.replace("1337", "1338"))


def test_a_manifest_that_was_injected_before_it_is_applied_is_taken(store: Store) -> None:
    manifest = yaml.safe_load(POD.replace("app: client", "sidecar.istio.io/inject: 'true'"))
    assert apply(store, json.dumps(inject(manifest, config=InjectionConfig())))


def test_galley_judges_what_is_applied_with_what_is_in_force(store: Store) -> None:
    rule = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: v9}}]}]}
"""
    with pytest.raises(RefusedError, match=r"0\.yaml:5:53: VirtualService default/web: .*there is no service web"):
        apply(store, rule)
    assert store.items == {}
    service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{name: http, port: 80}]}}"
    subsets = rule.replace("VirtualService", "DestinationRule").replace(
        "{hosts: [web], http: [{route: [{destination: {host: web, subset: v9}}]}]}",
        "{host: web, subsets: [{name: v9}]}",
    )
    apply(store, service, subsets)
    assert apply(store, rule) == [("VirtualService default/web", "created")]


def test_config_maps_are_read_by_name(store: Store) -> None:
    apply(store, CONFIG)
    assert store.config_map("default", "settings") == {"mode": "on"}
    assert store.config_map("other", "settings") is None


def test_what_pilot_could_not_read_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(store, CONFIG.replace("'on'", "'" + "x" * (MAX_FILE_BYTES - 1000) + "'"))
    (content,) = Files(tmp_path / "applied").read().values()
    assert isinstance(content, Parsed)
    assert len(content.resources) == 1
    # What is small as YAML may be large as what pilot gets: three bytes become six.
    for value in ("x" * MAX_FILE_BYTES, "€" * (MAX_FILE_BYTES // 6)):
        with pytest.raises(RefusedError, match="ConfigMap default/settings: error: has more than 4 MiB: split it"):
            apply(store, CONFIG.replace("'on'", f"'{value}'"))
    monkeypatch.setattr(judge_module, "MAX_FILES", 1)
    with pytest.raises(RefusedError, match="more than 1 resources in force"):
        apply(store, ACCOUNT)


def test_a_full_disk_leaves_what_was_there(store: Store, tmp_path: Path) -> None:
    apply(store, ACCOUNT)
    (tmp_path / "tmp").rmdir()
    with pytest.raises(MeshError, match="cannot be written: No such file"):
        apply(store, ACCOUNT.replace("name: web", "name: web, labels: {a: b}"))
    assert "labels" not in store.items[Key("ServiceAccount", "default", "web")].raw["metadata"]
