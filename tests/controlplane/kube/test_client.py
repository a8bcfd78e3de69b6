"""How the API server is reached."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from lightkube.core.exceptions import ApiError
from lightkube.resources.authentication_v1 import SelfSubjectReview
from lightkube.resources.core_v1 import Namespace

from pymesh.errors import ConfigError
from pymesh_controlplane.kube import client as clients
from pymesh_controlplane.kube.client import connect
from tests.support.kubernetes.server import ApiServer


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def pod(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a pod of the cluster finds: its service account's folder, and two variables."""
    place = urlsplit(api.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(place.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(place.port))
    monkeypatch.setattr(clients, "SERVICE_ACCOUNT", str(tmp_path))
    (tmp_path / "ca.crt").write_bytes(api.authority.root)
    (tmp_path / "namespace").write_text("default")
    (tmp_path / "token").write_text(api.account_token("default", "default"))
    return tmp_path


async def test_in_a_pod_it_is_the_service_account(pod: Path) -> None:
    client = connect(None)
    found = await client.create(SelfSubjectReview())
    assert found.status is not None
    assert found.status.userInfo is not None
    assert found.status.userInfo.username == "system:serviceaccount:default:default"
    await client.close()


async def test_a_token_that_was_replaced_is_read_anew(api: ApiServer, pod: Path) -> None:
    """Kubelet writes the next one long before the last one ends; nobody restarts for that."""
    (pod / "token").write_text("ended")
    client = connect(None)
    with pytest.raises(ApiError, match="Unauthorized"):
        await client.create(SelfSubjectReview())
    (pod / "token").write_text(api.account_token("default", "default"))
    assert await client.create(SelfSubjectReview())
    await client.close()


async def test_with_a_kubeconfig_it_is_its_user(api: ApiServer) -> None:
    client = connect(api.certificate_kubeconfig("jane", ("system:masters",)))
    assert (await client.get(Namespace, "default")).metadata
    found = await client.create(SelfSubjectReview())
    assert found.status is not None
    assert found.status.userInfo is not None
    assert found.status.userInfo.username == "jane"
    await client.close()


def test_elsewhere_than_in_a_pod_a_kubeconfig_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"no KUBERNETES_SERVICE_HOST.*--kubeconfig"):
        connect(None)


def test_a_pod_without_a_token_says_so(pod: Path) -> None:
    (pod / "token").unlink()
    with pytest.raises(ConfigError, match="does the pod mount the token of its service account"):
        connect(None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "not YAML"),
        ("kind: Pod", "is no kubeconfig"),
        ("kind: Config", "no current context"),
        ("{kind: Config, current-context: a}", "has no context a"),
    ],
)
def test_a_kubeconfig_that_is_none_is_told(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigError, match=said):
        connect(tmp_path / "config")


def test_credentials_that_are_none_are_told(api: ApiServer, tmp_path: Path) -> None:
    text = api.kubeconfig().read_text()
    line = next(line for line in text.splitlines() if "certificate-authority-data" in line)
    (tmp_path / "config").write_text(text.replace(line, "    certificate-authority-data: bm9uZQ=="))
    with pytest.raises(ConfigError, match="cannot be used"):
        connect(tmp_path / "config")
