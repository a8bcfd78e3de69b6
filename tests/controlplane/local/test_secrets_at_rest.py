"""A Secret that is applied: where its file is, who may read it, and what others are shown."""

import os
import stat
from pathlib import Path

import pytest

from pymesh import names
from pymesh.resources.redaction import redacted
from pymesh.resources.resource import Key
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local import system
from pymesh_controlplane.local.state import State
from pymesh_controlplane.local.store import Store
from pymesh_controlplane.local.texts import Text

SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: api, namespace: default}
stringData: {password: hunter2}
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the file is given to the control plane's user")
def test_the_file_is_the_control_planes_alone_and_goes_with_the_secret(tmp_path: Path) -> None:
    for name in ("applied", "secrets", "tmp"):
        (tmp_path / name).mkdir()
    store = Store(tmp_path / "applied", tmp_path / "secrets", tmp_path / "tmp", InjectionConfig())
    items, _ = store.read([Text("secret.yaml", "/", SECRET)], "default")
    store.apply(items)
    (file,) = (tmp_path / "secrets").iterdir()
    status = file.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, names.PROXY_UID, names.PROXY_UID)
    assert "hunter2" in file.read_text()
    assert not list((tmp_path / "applied").iterdir())
    assert "hunter2" not in repr(store.items)
    assert "hunter2" not in str(redacted(store.items[Key("Secret", "default", "api")].raw))
    store.delete(Key("Secret", "default", "api"))
    assert not list((tmp_path / "secrets").iterdir())


def test_only_pilot_is_shown_the_folder() -> None:
    state = State("m")
    pods = {item["metadata"]["name"]: item for item in system.manifests(state, ["pilot", "citadel", "policy"])
            if item["kind"] == "Pod"}  # fmt: skip
    seen = {
        name: [volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if "hostPath" in volume]
        for name, pod in pods.items()
    }
    assert str(state.config) in seen["pymesh-controlplane"]
    assert {str(state.applied), str(state.observed)} <= set(seen["policy"])
    assert not {str(state.config), str(state.secrets)} & set(seen["policy"])
