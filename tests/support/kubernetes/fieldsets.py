"""Sets of fields, as managedFields has them (FieldsV1), and merging by them (sigs.k8s.io/structured-merge-diff).

A path is a tuple of FieldsV1's own keys: `f:name`, `k:{"name":"web"}` (an item of a list of type map), `v:"x"` (an item
of a list of type set).
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import msgspec

from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.schema import Schema

Path = tuple[str, ...]
# Keys that an item may leave out, because the type has a default for them.
_KEY_DEFAULTS = {"protocol": "TCP"}


def fields_of(value: Any, schema: Schema | None, path: Path = ()) -> Iterator[Path]:
    """The paths of all that a value says."""
    if isinstance(value, dict) and value and not (schema and schema.atomic):
        for key, below in value.items():
            yield from fields_of(below, schema.field(key) if schema else None, (*path, f"f:{key}"))
    elif isinstance(value, list) and value and schema and schema.list_type == "map":
        for each in value:
            here = (*path, key_of(each, schema))
            yield here
            yield from fields_of(each, schema.item(), here)
    elif isinstance(value, list) and value and schema and schema.list_type == "set":
        for each in value:
            yield (*path, f"v:{_text(each)}")
    else:
        yield path


def key_of(item: Any, schema: Schema) -> str:
    """How an item of a list of type map is called."""
    found = item if isinstance(item, dict) else {}
    keys = {key: found.get(key, _KEY_DEFAULTS.get(key)) for key in sorted(schema.map_keys)}
    return f"k:{_text({key: value for key, value in keys.items() if value is not None})}"


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def tree(paths: Iterable[Path]) -> Object:
    """FieldsV1 of some paths."""
    root: Object = {}
    every = set(paths)
    for path in sorted(every):
        node = root
        for step in path:
            node = node.setdefault(step, {})
    for path in every:
        node = _node(root, path)
        if node:
            node["."] = {}
    return root


def _node(root: Object, path: Path) -> Object:
    for step in path:
        root = root[step]
    return root


def paths_of(node: Object, path: Path = ()) -> Iterator[Path]:
    """The paths of FieldsV1."""
    if path and (not node or "." in node):
        yield path
    for step, below in node.items():
        if step != ".":
            yield from paths_of(below, (*path, step))


def merged(live: Any, wanted: Any, schema: Schema | None) -> Any:
    """What is there with what is wanted: what is wanted wins, and nothing is taken away."""
    if isinstance(live, dict) and isinstance(wanted, dict) and not (schema and schema.atomic):
        ours = {
            key: merged(live.get(key), value, schema.field(key) if schema else None) for key, value in wanted.items()
        }
        return live | ours
    if isinstance(live, list) and isinstance(wanted, list) and schema and schema.list_type == "map":
        ours = {key_of(each, schema): each for each in wanted}
        there = {key_of(each, schema): each for each in live}
        return [
            *(merged(each, ours[key], schema.item()) if key in ours else each for key, each in there.items()),
            *(deepcopy(each) for key, each in ours.items() if key not in there),
        ]
    if isinstance(live, list) and isinstance(wanted, list) and schema and schema.list_type == "set":
        return [*live, *(each for each in wanted if each not in live)]
    return deepcopy(wanted)


def removed(value: Any, path: Path, schema: Schema | None) -> None:
    """Take a path out of a value, in place; and what is left empty above it."""
    step, rest = path[0], path[1:]
    if step.startswith("f:") and isinstance(value, dict) and (key := step[2:]) in value:
        below = schema.field(key) if schema else None
        if rest:
            removed(value[key], rest, below)
        if not rest or value[key] in ({}, []):
            del value[key]
    elif isinstance(value, list) and schema:
        for each in list(value):
            if (key_of(each, schema) if step.startswith("k:") else f"v:{_text(each)}") != step:
                continue
            if rest:
                removed(each, rest, schema.item())
            else:
                value.remove(each)


def value_at(value: Any, path: Path, schema: Schema | None) -> Any:
    """What is at a path; None if nothing is. For an item of a list: whether it is there."""
    for step in path:
        if isinstance(value, dict) and step.startswith("f:"):
            value, schema = value.get(step[2:]), schema.field(step[2:]) if schema else None
        elif isinstance(value, list) and schema:
            named = schema.list_type == "map"
            value = next(
                (each for each in value if (key_of(each, schema) if named else f"v:{_text(each)}") == step), None
            )
            schema = schema.item()
        else:
            return None
    if path and path[-1].startswith("k:"):
        return value is not None
    return value


def written(path: Path) -> str:
    """A path as conflicts are told: `.spec.containers[name="web"].image`."""
    text = ""
    for step in path:
        kind, _, what = step.partition(":")
        if kind == "f":
            text += f".{what}"
        elif kind == "k":
            keys = msgspec.json.decode(what)
            text += "[" + ",".join(f"{key}={_text(value)}" for key, value in keys.items()) + "]"
        else:
            text += f"[={what}]"
    return text
