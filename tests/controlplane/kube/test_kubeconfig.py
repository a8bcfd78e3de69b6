"""Which cluster a kubeconfig leads to, and what of it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymesh.errors import ConfigError
from pymesh_controlplane.kube.kubeconfig import load


def config(**changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443", "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "current-context": "here",
        **changes,
    }


def written(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def test_the_current_context_and_its_files_beside_it(tmp_path: Path) -> None:
    found, proxy = load([written(tmp_path / "config", config())])
    assert (found.context_name, found.namespace, proxy) == ("here", "shop", None)
    assert found.cluster.server == "https://192.0.2.1:6443"
    assert found.cluster.certificate_auth == str(tmp_path / "ca.crt")


def test_of_several_files_the_first_that_says_something_wins(tmp_path: Path) -> None:
    other = {
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.9"}}],
        "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "there",
    }
    files = [written(tmp_path / "a" / "config", config()), written(tmp_path / "b" / "config", other)]
    assert load(files).config.context_name == "here"
    there = load(files, "there").config
    assert there.cluster.server == "https://192.0.2.1:6443"
    assert there.namespace == "default"


def test_a_plugin_for_credentials_is_told_which_version_is_expected(tmp_path: Path) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "interactiveMode": "Never"}
    user = load([written(tmp_path / "config", config(users=[{"name": "u", "user": {"exec": plugin}}]))]).config.user
    assert user is not None
    assert user.exec is not None
    assert user.exec.command == str(tmp_path / "login")
    [told] = [item for item in user.exec.env or [] if item.name == "KUBERNETES_EXEC_INFO"]
    assert json.loads(told.value)["apiVersion"] == "client.authentication.k8s.io/v1"


def test_a_proxy_is_taken_along(tmp_path: Path) -> None:
    cluster = {"server": "https://192.0.2.1", "proxy-url": "http://192.0.2.2:3128"}
    assert load([written(tmp_path / "c", config(clusters=[{"name": "c", "cluster": cluster}]))]).proxy == (
        "http://192.0.2.2:3128"
    )


@pytest.mark.parametrize(
    ("document", "context", "sentence"),
    [
        (config(), "elsewhere", "the kubeconfig has no context elsewhere; there are: here"),
        (config(**{"current-context": ""}), "", r"the kubeconfig has no current context: choose one with --context"),
        (config(users=[]), "", "context here of the kubeconfig cannot be used: it names 'u', and there is none"),
        (
            config(users=[{"name": "u", "user": {"token": "secret", "as": "jane"}}]),
            "",
            r"context here of the kubeconfig: user\.as is not supported",
        ),
        (
            config(clusters=[{"name": "c", "cluster": {"server": "https://192.0.2.1", "tls-server-name": "x"}}]),
            "",
            r"context here of the kubeconfig: cluster\.tls-server-name is not supported",
        ),
        ("token: secret\n  bad: [", "", r"config:2: not YAML$"),
        ("- 1", "", "config is no kubeconfig$"),
        (config(contexts=[{"name": "x"}]), "", "contexts is a list of entries with a name and a context$"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words_that_hold_no_secret(
    tmp_path: Path, document: Any, context: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load([written(tmp_path / "config", document)], context)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: No such file or directory"):
        load([tmp_path / "nowhere"])
