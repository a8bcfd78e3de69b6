"""Reading Kubernetes objects that people wrote: what is not of the expected shape is refused with its path. Pure."""

from typing import Any, TypeAlias

from pymesh.errors import ConfigError

Manifest: TypeAlias = dict[str, Any]


def mapping(owner: Manifest, key: str, *, path: str = "", create: bool = False) -> Manifest:
    """`owner[key]`: a mapping, empty if it is not there (and then put there if `create`). `path` ends before `key`.

    Raises:
        ConfigError: something else stands there.
    """
    value = owner.get(key)
    if value is None:
        value = {}
        if create:
            owner[key] = value
    if not isinstance(value, dict):
        raise ConfigError("a mapping belongs here", path=f"{path}{key}")
    return value


def strings(metadata: Manifest, key: str) -> dict[str, str]:
    """The labels or annotations of `metadata`.

    Raises:
        ConfigError: a value is not a string, as in an unquoted `true`.
    """
    values = mapping(metadata, key, path="metadata.")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"{key} are strings; put {value!r} in quotes", path=f"metadata.{key}[{name}]")
    return values


def named_items(spec: Manifest, field: str) -> list[Manifest]:
    """A list of objects that have names: the containers or volumes of a pod's spec; empty if it is not there.

    Raises:
        ConfigError: something else stands there.
    """
    items = spec.get(field)
    if items is None:
        return []
    if not isinstance(items, list):
        raise ConfigError("a list belongs here", path=f"spec.{field}")
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise ConfigError("an object with a name belongs here", path=f"spec.{field}[{index}]")
    return items
