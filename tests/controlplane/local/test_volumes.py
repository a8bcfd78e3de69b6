"""Volumes: what is in them, what they wait for, and what they do not let out."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane.local import volumes
from pymesh_controlplane.local.downward import PodFacts
from pymesh_controlplane.local.podcheck import read
from pymesh_controlplane.local.podspec import Container, Pod, Volume, VolumeMount
from pymesh_controlplane.local.rootfs import Mount
from pymesh_controlplane.local.volumes import NotThereYet, Sources

FACTS = PodFacts("web-1", "shop", "u-1", "web", "10.244.0.9", {"app": "web"}, {})


def volume(**source: object) -> Volume:
    mount = {"name": "v", "mountPath": "/v"}
    spec = {
        "containers": [{"name": "c", "command": ["x"], "volumeMounts": [mount]}],
        "volumes": [{"name": "v", **source}],
    }
    pod = read(Pod, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
    assert isinstance(pod, Pod), pod
    return pod.spec.volumes[0]


def sources(config: Mapping[str, Mapping[str, str]] | None = None, minted: str = "t1") -> Sources:
    return Sources(FACTS, (config or {}).get, lambda audience, lifetime: f"{minted} {audience} {lifetime}")


def test_projected_sources_share_a_directory(tmp_path: Path) -> None:
    projected = {
        "sources": [
            {"serviceAccountToken": {"path": "istio-token", "audience": "istio-ca", "expirationSeconds": 43200}},
            {"downwardAPI": {"items": [{"path": "pod/labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"configMap": {"name": "root", "items": [{"key": "a", "path": "b.pem"}]}},
        ]
    }
    volumes.write(volume(projected=projected), tmp_path / "v", sources({"root": {"a": "PEM", "other": "x"}}))
    assert (tmp_path / "v/istio-token").read_text() == "t1 istio-ca 43200"
    assert (tmp_path / "v/pod/labels").read_text() == 'app="web"'
    assert (tmp_path / "v/b.pem").read_text() == "PEM"


def test_a_renewed_token_takes_the_place_of_the_old_at_once(tmp_path: Path) -> None:
    token = volume(projected={"sources": [{"serviceAccountToken": {"path": "t", "audience": "a"}}]})
    volumes.write(token, tmp_path / "v", sources(minted="old"))
    with (tmp_path / "v/t").open() as reader:
        volumes.write(token, tmp_path / "v", sources(minted="new"))
        assert reader.read().startswith("old"), "who has it open sees no half of the new one"
    assert (tmp_path / "v/t").read_text().startswith("new")


def test_a_config_map_is_waited_for_and_followed(tmp_path: Path) -> None:
    source = volume(configMap={"name": "settings"})
    with pytest.raises(NotThereYet, match="waiting for ConfigMap shop/settings"):
        volumes.write(source, tmp_path / "v", sources())
    volumes.write(source, tmp_path / "v", sources({"settings": {"a": "1", "b": "2"}}))
    volumes.write(source, tmp_path / "v", sources({"settings": {"b": "3"}}))
    assert {path.name: path.read_text() for path in (tmp_path / "v").iterdir()} == {"b": "3"}


def test_missing_things_that_are_optional_are_left_out(tmp_path: Path) -> None:
    volumes.write(volume(configMap={"name": "settings", "optional": True}), tmp_path / "v", sources())
    assert list((tmp_path / "v").iterdir()) == []
    keyed = volume(configMap={"name": "settings", "items": [{"key": "a", "path": "a"}]})
    with pytest.raises(NotThereYet, match="waiting for key a in ConfigMap shop/settings"):
        volumes.write(keyed, tmp_path / "v", sources({"settings": {}}))


def test_only_empty_dirs_and_host_paths_can_be_written(tmp_path: Path) -> None:
    def mounted(source: Volume, **mount: object) -> list[Mount]:
        spec = VolumeMount(name="v", mount_path="/v", **mount)  # type: ignore[arg-type]  # a test's shorthand
        volumes.write(source, tmp_path / "v", sources({"m": {}}))
        return volumes.mounts(Container(name="c", volume_mounts=[spec]), {"v": source}, tmp_path)

    assert mounted(volume(emptyDir={})) == [Mount(str(tmp_path / "v"), "/v", False)]
    assert mounted(volume(emptyDir={}), read_only=True)[0].read_only
    assert mounted(volume(configMap={"name": "m"}))[0].read_only
    assert mounted(volume(hostPath={"path": str(tmp_path)})) == [Mount(str(tmp_path), "/v", False)]
    assert mounted(volume(emptyDir={}), sub_path="a/b")[0].source == str(tmp_path / "v/a/b")
    (tmp_path / "v/out").symlink_to("/etc")
    with pytest.raises(ConfigError, match="leads out of volume"):
        mounted(volume(emptyDir={}), sub_path="out")


def test_a_host_path_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(NotThereYet, match="to exist"):
        volumes.write(volume(hostPath={"path": str(tmp_path / "later")}), tmp_path / "v", sources())


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/abs", ".."])
def test_a_file_stays_below_its_volume(path: str) -> None:
    items = [{"key": "a", "path": path}]
    spec = {
        "containers": [{"name": "c", "command": ["x"]}],
        "volumes": [{"name": "v", "configMap": {"name": "m", "items": items}}],
    }
    errors = read(Pod, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
    assert isinstance(errors, list)
    assert "without .." in errors[0].problem
