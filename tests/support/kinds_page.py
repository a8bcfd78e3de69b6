"""Writes docs/kinds.md, the reference of what people write, from the types that it is read with.

Usage: `python -m tests.support.kinds_page > docs/kinds.md`
"""

import inspect
import sys
from collections.abc import Iterator

import msgspec
from msgspec import inspect as types

from pymesh.resources import parse
from pymesh.resources.fields import UNSUPPORTED

HEAD = """\
# The kinds that pymesh reads, field by field

Istio's kinds as Istio documents them, Kubernetes' own, and limits of our own. **A field that is not here is refused,
never ignored**, and so is one marked *refused*: a field of the kind that the mesh cannot honour yet. `pymesh validate`
says what is wrong, where, and what to write; pilot goes on with the last good version.

This page is generated from the types that files are read with (`pymesh/resources/`). Do not edit it; run
`python -m tests.support.kinds_page > docs/kinds.md`.

Of Kubernetes' kinds (Service, Pod, Deployment, ServiceAccount, Namespace, Node, EndpointSlice, ConfigMap, Secret)
pymesh reads what concerns the mesh and lets the rest pass: the API server is their judge.
"""

_SHOWN = ("istio.io", "pymesh.io")
_OBJECT = frozenset({"metadata", "apiVersion", "kind", "status"})
_WORDS = {
    types.StrType: "text",
    types.IntType: "number",
    types.FloatType: "number",
    types.BoolType: "`true` or `false`",
    types.NoneType: "",
    types.AnyType: "anything",
}


def render() -> str:
    """The whole page."""
    kinds = sorted((group, kind, struct) for group, kind, struct in parse.structs() if group.endswith(_SHOWN))
    return HEAD + "".join(section for group, kind, struct in kinds for section in _kind(group, kind, struct))


def _kind(group: str, kind: str, struct: type[object]) -> Iterator[str]:
    about = types.type_info(struct)
    assert isinstance(about, types.StructType)
    yield f"\n## {kind} ({group})\n\n{_sentence(struct)}\n"
    seen: dict[type[object], None] = {}
    parts = [field for field in about.fields if field.encode_name not in _OBJECT]
    yield "\n" + "".join(_line(field) for field in parts)
    for field in parts:
        _collect(field.type, seen)
    for part in seen:
        found = types.type_info(part)
        assert isinstance(found, types.StructType)
        yield f"\n### {kind}: {part.__name__}\n\n{_sentence(part)}\n\n" + "".join(map(_line, found.fields))


def _line(field: types.Field) -> str:
    needed = ", needed" if field.required else ""
    said = _describe(field.type)
    return f"- `{field.encode_name}`: {said}{needed}{_default(field)}\n"


def _default(field: types.Field) -> str:
    value = field.default
    if (
        value is msgspec.NODEFAULT
        or value is None
        or value == ""
        or value is False
        or isinstance(value, msgspec.Struct)
    ):
        return ""
    return f"; `{str(value).lower() if isinstance(value, bool) else value}` if not given"


def _describe(found: types.Type) -> str:
    if isinstance(found, types.Metadata):
        if (found.extra or {}).get(UNSUPPORTED):
            return "*refused*"
        said = (found.extra_json_schema or {}).get("description")
        return str(said) if said else _describe(found.type)
    if isinstance(found, types.UnionType):
        return " or ".join(part for part in map(_describe, found.types) if part)
    if isinstance(found, types.LiteralType):
        return " or ".join(f"`{value}`" for value in found.values)
    if isinstance(found, types.StructType):
        return found.cls.__name__
    if isinstance(found, types.ListType):
        return f"list of {_describe(found.item_type)}"
    if isinstance(found, types.DictType):
        return f"{_describe(found.value_type)} by name"
    return _WORDS[type(found)]


def _collect(found: types.Type, seen: dict[type[object], None]) -> None:
    """Note every struct within, in the order of reading."""
    if isinstance(found, types.StructType):
        if found.cls not in seen:
            seen[found.cls] = None
            for field in found.fields:
                _collect(field.type, seen)
    elif isinstance(found, types.UnionType):
        for part in found.types:
            _collect(part, seen)
    elif isinstance(found, types.ListType):
        _collect(found.item_type, seen)
    elif isinstance(found, types.DictType):
        _collect(found.value_type, seen)
    elif isinstance(found, types.Metadata):
        _collect(found.type, seen)


def _sentence(struct: type[object]) -> str:
    return " ".join((inspect.getdoc(struct) or "").split("\n\nAttributes:")[0].split())


if __name__ == "__main__":
    sys.stdout.write(render())
