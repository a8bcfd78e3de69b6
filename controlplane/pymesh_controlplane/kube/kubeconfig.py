"""The kubeconfig that a command is given or finds, as kubectl reads it. Nothing of it is printed but names and servers.

Sources: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/ (which files, how several
are merged), https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import yaml
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import NameValue, User
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from pymesh.errors import ConfigError

# Bytes of a kubeconfig; one with a hundred clusters and their certificates has some hundred KiB.
MAX_BYTES: Final = 4 * 1024 * 1024

_EXEC_GROUP: Final = "client.authentication.k8s.io/"
# What lightkube reads of a user or a cluster without a word; each changes who we are or whom we talk to.
_NOT_READ: Final = {
    "user": ("as", "as-uid", "as-groups", "as-user-extra", "auth-provider"),
    "cluster": ("tls-server-name",),
}
_LISTS: Final = {"clusters": "cluster", "contexts": "context", "users": "user"}


class Access(NamedTuple):
    """How a cluster is reached: what lightkube needs to know, and the proxy on the way, if there is one."""

    config: SingleConfig
    proxy: str | None


def load(files: Iterable[Path], context: str = "") -> Access:
    """How to reach the cluster of `context`, by default of the current one.

    Raises:
        ConfigError: a file cannot be read, there is no such context, or it has what is not supported.
    """
    merged = _merged([_document(file) for file in files])
    name = context or str(merged.get("current-context") or "")
    contexts = {str(item["name"]): item["context"] for item in merged["contexts"]}
    if not name:
        raise ConfigError(f"the kubeconfig has no current context: choose one with --context ({_listed(contexts)})")
    if name not in contexts:
        raise ConfigError(f"the kubeconfig has no context {name}; there are: {_listed(contexts)}")
    entries = {kind: _entry(merged, kind, contexts[name]) for kind in _NOT_READ}
    for kind, fields in _NOT_READ.items():
        for field in fields:
            if entries[kind].get(field):
                raise ConfigError(f"context {name} of the kubeconfig: {kind}.{field} is not supported")
    try:
        found = KubeConfig.from_dict(dict(merged)).get(name)
    except (KeyError, TypeError, msgspec.ValidationError, LightkubeConfigError) as error:
        raise ConfigError(f"context {name} of the kubeconfig cannot be used: {_words(error)}") from None
    assert found is not None, "it was asked for by its name"
    return Access(found._replace(user=_prepared(found.user)), entries["cluster"].get("proxy-url") or None)


def _words(error: Exception) -> str:
    return f"it names {error}, and there is none" if isinstance(error, KeyError) else str(error)


def _document(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{file} has more than {MAX_BYTES // 2**20} MiB: it is no kubeconfig")
        document = yaml.load(data, Loader=yaml.CSafeLoader)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        # Not the error's own text: it quotes the line, and that may be a token.
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{file}{f':{mark.line + 1}' if mark else ''}: not YAML") from None
    if document is None:
        return {}
    if not isinstance(document, dict) or document.get("kind", "Config") != "Config":
        raise ConfigError(f"{file} is no kubeconfig")
    for field, inner in _LISTS.items():
        items = document.get(field) or []
        if not isinstance(items, list) or not all(_is_entry(item, inner) for item in items):
            raise ConfigError(f"{file}: {field} is a list of entries with a name and a {inner}")
        document[field] = [{**item, inner: _absolute(item[inner] or {}, file.parent)} for item in items]
    return document


def _is_entry(item: object, inner: str) -> bool:
    return isinstance(item, dict) and "name" in item and isinstance(item.get(inner, {}) or {}, dict) and inner in item


def _absolute(entry: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The entry with paths that do not depend on the file that it is from: several files become one."""
    files = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
    found = dict(entry)
    for key in files:
        if found.get(key):
            found[key] = str(directory / found[key])
    command = (found.get("exec") or {}).get("command") or ""
    if "/" in command:
        found["exec"] = {**found["exec"], "command": str(directory / command)}
    return found


def _merged(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Several files as one: the first one that says something wins."""
    merged: dict[str, Any] = {field: [] for field in _LISTS}
    for document in documents:
        for field in _LISTS:
            known = {item["name"] for item in merged[field]}
            merged[field] += [item for item in document.get(field, []) if item["name"] not in known]
        merged["current-context"] = merged.get("current-context") or document.get("current-context")
    return merged


def _entry(merged: Mapping[str, Any], kind: str, context: Mapping[str, Any]) -> Mapping[str, Any]:
    """The user or cluster that a context names; empty if there is none."""
    return next((item[kind] for item in merged[f"{kind}s"] if item["name"] == context.get(kind)), {})


def _prepared(user: User | None) -> User:
    """The user as lightkube can work with it: it wants one, and tells credential plugins nothing of who asks."""
    if user is None:
        return User()
    if user.exec is None:
        return user
    version = user.exec.apiVersion
    if not version.startswith(_EXEC_GROUP):
        raise ConfigError(
            f"the kubeconfig's credential plugin {user.exec.command} speaks {version}, and not {_EXEC_GROUP}v1"
        )
    # A plugin of v1 requires to be told which version it is asked for; the answer has had one form in all of them.
    told = json.dumps({"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}})
    variables = [*(user.exec.env or []), NameValue("KUBERNETES_EXEC_INFO", told)]
    plugin = msgspec.structs.replace(user.exec, apiVersion=f"{_EXEC_GROUP}v1beta1", env=variables)
    return msgspec.structs.replace(user, exec=plugin)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
