"""Writes docs/kinds.md, the reference of what people write, from the types that it is read with.

Usage: `python -m tests.support.kinds_page > docs/kinds.md`
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import inspect as types

from pymesh.resources import parse
from pymesh.resources.fields import UNSUPPORTED
from pymesh.resources.mesh_config import MeshConfig

HEAD = """\
# The kinds that pymesh reads, field by field

Istio's kinds as Istio documents them, Kubernetes' own, and limits of our own. **A field that is not here is refused,
never ignored**, and so are those listed as *refused*: fields of the kind that the mesh cannot honour yet.
`pymesh validate` says what is wrong, where, and what to write; pilot goes on with the last good version.

This page is generated from the types that files are read with (`pymesh/resources/`). Do not edit it; run
`python -m tests.support.kinds_page > docs/kinds.md`.

Of Kubernetes' kinds (Service, Pod, Deployment, ServiceAccount, Namespace, Node, EndpointSlice, ConfigMap, Secret)
pymesh reads what concerns the mesh and lets the rest pass: the API server is their judge.
"""

REFUSED = "*refused*"

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
    sections = [(kind, f"{kind} ({group})", struct) for group, kind, struct in kinds]
    sections.append(("MeshConfig", "MeshConfig (key `mesh` of ConfigMap `pymesh-system/pymesh`)", MeshConfig))
    index = "".join(f"- [{kind}](#{_anchor(title)}): {_sentence(struct)}\n" for kind, title, struct in sections)
    return f"{HEAD}\n{index}" + "".join(part for section in sections for part in _section(*section))


def _section(kind: str, title: str, struct: type[object]) -> Iterator[str]:
    about = types.type_info(struct)
    assert isinstance(about, types.StructType)
    yield f"\n## {title}\n\n{_sentence(struct)}\n\n"
    parts = [field for field in about.fields if field.encode_name not in _OBJECT]
    seen: dict[type[object], None] = {}
    for field in parts:
        _collect(field.type, seen)
    yield from _lines(kind, struct, parts)
    for part in seen:
        found = types.type_info(part)
        assert isinstance(found, types.StructType)
        yield f"\n### {kind}: {part.__name__}\n\n{_sentence(part)}\n\n"
        yield from _lines(kind, part, found.fields)


def _lines(kind: str, struct: type[object], fields: Iterable[types.Field]) -> Iterator[str]:
    """A line for each field, then what the docstring says about several at once, and what is refused."""
    encoded = {field.name: field.encode_name for field in fields}
    about = {tuple(names.split(", ")): _as_written(text, encoded) for names, text in _attributes(struct)}
    refused = [field for field in fields if _describe(kind, field.type) == REFUSED]
    for field in fields:
        if field not in refused:
            said = [_describe(kind, field.type), "needed" if field.required else "", _default(field)]
            more = f". *{text}*" if (text := about.get((field.name,))) else ""
            yield f"- `{field.encode_name}`: {', '.join(filter(None, said))}{more}\n"
    for names, text in about.items():
        written = [f"`{encoded[name]}`" for name in names]  # KeyError: the docstring speaks of what is not there
        if len(names) > 1:
            yield f"- {', '.join(written)}: *{text}*\n"
    if refused:
        yield f"- {REFUSED}: {', '.join(f'`{field.encode_name}`' for field in refused)}\n"


def _as_written(text: str, encoded: Mapping[str, str]) -> str:
    """With fields as they are called in manifests."""
    return re.sub(r"`(\w+)`", lambda found: f"`{encoded.get(found[1], found[1])}`", text)


def _attributes(struct: type[object]) -> Iterator[tuple[str, str]]:
    """What the docstring says of fields: their names, as it has them, and the text."""
    _, _, listed = (inspect.getdoc(struct) or "").partition("\n\nAttributes:\n")
    for entry in re.split(r"\n(?=    \S)", listed.partition("\n\n")[0]):
        names, _, text = entry.strip().partition(": ")
        if names:
            yield names, " ".join(text.split()).rstrip(".;")


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


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
    said = str(value).lower() if isinstance(value, bool) else value
    return f"`{said}` if not given"


def _describe(kind: str, found: types.Type) -> str:
    if isinstance(found, types.Metadata):
        if (found.extra or {}).get(UNSUPPORTED):
            return REFUSED
        said = (found.extra_json_schema or {}).get("description")
        inner = _describe(kind, found.type)
        if not said:
            return inner
        return f"{said} ({inner})" if "](#" in inner else str(said)
    if isinstance(found, types.UnionType):
        return " or ".join(part for part in (_describe(kind, each) for each in found.types) if part)
    if isinstance(found, types.LiteralType):
        return " or ".join(f"`{value}`" for value in found.values if value) or "empty"
    if isinstance(found, types.StructType):
        name = found.cls.__name__
        return f"[{name}](#{_anchor(f'{kind}: {name}')})"
    if isinstance(found, types.ListType):
        return f"list of {_describe(kind, found.item_type)}"
    if isinstance(found, types.DictType):
        return f"{_describe(kind, found.value_type)} by name"
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
