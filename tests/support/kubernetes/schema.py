"""Schemas of objects: Kubernetes' own, as kubernetes-validate ships them, and the structural ones of CRDs.

Both say what fields there are, of which types, which are required, how lists are merged. What is done with them is the
API server's: unknown fields are dropped (and told of), wrong types refuse the request, defaults are filled in.
"""

import base64
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships none

from tests.support.kubernetes.errors import Object, cause, required

VERSION = "1.36.0"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
# The type that `format: byte` asks for, among those of JSON.
BASE64 = "base64"
_REFERENCE = "#/$defs/"


@functools.cache
def definitions() -> dict[str, Object]:
    """Kubernetes' types by their OpenAPI names (`io.k8s.api.core.v1.Pod`), read once."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}-local"
    types: dict[str, Object] = msgspec.json.decode((folder / "_definitions.json").read_bytes())["$defs"]
    return types


@functools.cache
def _names() -> dict[tuple[str, str, str], str]:
    """The OpenAPI name of each (group, version, kind)."""
    return {
        (gvk["group"], gvk["version"], gvk["kind"]): name
        for name, definition in definitions().items()
        for gvk in definition.get("x-kubernetes-group-version-kind", ())
        # DeleteOptions and WatchEvent are listed under every group; the kind that is meant has it as its own.
        if len(definition["x-kubernetes-group-version-kind"]) == 1
    }


def definition_name(group: str, version: str, kind: str) -> str:
    """The OpenAPI name of a built-in kind; "" if there is none."""
    return _names().get((group, version, kind), "")


def builtin(group: str, version: str, kind: str) -> "Schema | None":
    """The schema of a built-in kind."""
    name = definition_name(group, version, kind)
    return Schema(definitions()[name], builtin=True) if name else None


@dataclass(frozen=True, slots=True)
class Schema:
    """One node. `builtin` types keep what is below an object without properties; CRDs say so explicitly."""

    node: Object
    builtin: bool = False
    # The node of a whole object: its metadata is ObjectMeta whatever the schema says.
    root: bool = False

    def resolved(self) -> Object:
        """The node behind a reference."""
        reference = self.node.get("$ref")
        return definitions()[reference.removeprefix(_REFERENCE)] if reference else self.node

    def preserves(self) -> bool:
        """Whether fields that are not named are kept."""
        node = self.resolved()
        if node.get("x-kubernetes-preserve-unknown-fields"):
            return True
        return self.builtin and "properties" not in node and "additionalProperties" not in node

    def field(self, name: str) -> "Schema | None":
        """What is below a key; None if the key is not known."""
        if self.root and name == "metadata":
            return Schema(definitions()[OBJECT_META], builtin=True)
        if self.root and name in ("apiVersion", "kind"):
            return Schema({"type": "string"})
        node = self.resolved()
        if name in node.get("properties", ()):
            return Schema(node["properties"][name], self.builtin)
        if node.get("x-kubernetes-embedded-resource"):
            return Schema({"x-kubernetes-preserve-unknown-fields": True}, builtin=True)
        more = node.get("additionalProperties")
        return Schema(more, self.builtin) if isinstance(more, dict) else None

    def item(self) -> "Schema | None":
        """What a list holds."""
        items = self.resolved().get("items")
        return Schema(items, self.builtin) if items else None

    @property
    def types(self) -> tuple[str, ...]:
        """JSON types that the node takes; empty is any. `null` where nil is as good as nothing."""
        node = self.resolved()
        if node.get("x-kubernetes-int-or-string"):
            return ("integer", "string", *(["null"] if node.get("nullable") else []))
        if "oneOf" in node and "type" not in node:
            return tuple(each for option in node["oneOf"] for each in Schema(option).types)
        kind = node.get("type", ())
        named = (kind,) if isinstance(kind, str) else tuple(kind)
        return (*named, "null") if named and (node.get("nullable") or self.builtin) else named

    @property
    def list_type(self) -> str:
        """`map`, `set` or `atomic` (x-kubernetes-list-type)."""
        node = self.resolved()
        return str(self.node.get("x-kubernetes-list-type", node.get("x-kubernetes-list-type", "atomic")))

    @property
    def map_keys(self) -> tuple[str, ...]:
        """The fields that tell the items of a `map` list apart."""
        return tuple(self.node.get("x-kubernetes-list-map-keys", ()))

    @property
    def atomic(self) -> bool:
        """Whether a map or struct is owned as one."""
        node = self.resolved()
        kind = self.node.get("x-kubernetes-map-type", node.get("x-kubernetes-map-type"))
        return kind == "atomic"


def prune(value: Any, schema: Schema, path: str = "") -> list[str]:
    """Take unknown fields out of `value`, in place, and the nulls that mean nothing; the paths of what was unknown."""
    unknown: list[str] = []
    if isinstance(value, dict):
        for key in list(value):
            below = schema.field(key)
            where = f"{path}.{key}" if path else key
            if below is None:
                if not schema.preserves():
                    unknown.append(where)
                    del value[key]
            elif value[key] is None and (below.builtin or "null" not in below.types):
                del value[key]
            else:
                unknown += prune(value[key], below, where)
    elif isinstance(value, list) and (item := schema.item()):
        for index, each in enumerate(value):
            unknown += prune(each, item, f"{path}[{index}]")
    return unknown


def fill(value: Any, schema: Schema) -> None:
    """Fill in a structural schema's defaults, in place."""
    if isinstance(value, dict):
        for key, node in schema.resolved().get("properties", {}).items():
            if key not in value and "default" in node:
                value[key] = msgspec.json.decode(msgspec.json.encode(node["default"]))
        for key, below in value.items():
            if under := schema.field(key):
                fill(below, under)
    elif isinstance(value, list) and (item := schema.item()):
        for each in value:
            fill(each, item)


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def wrong_types(value: Any, schema: Schema, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Where a value is of another JSON type than the schema's: (path, expected, found)."""
    found = _type_of(value)
    if schema.resolved().get("format") == "byte" and isinstance(value, str) and not _is_base64(value):
        yield (path, BASE64, found)
    if schema.types and not any(_is(value, each) for each in schema.types):
        yield (path, schema.types[0], found)
        return
    if isinstance(value, dict):
        for key, below in value.items():
            if under := schema.field(key):
                yield from wrong_types(below, under, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and (item := schema.item()):
        for index, each in enumerate(value):
            yield from wrong_types(each, item, f"{path}[{index}]")


def violations(value: Any, schema: Schema, path: str = "") -> Iterator[Object]:
    """What a value breaks of required fields, enums, bounds and patterns: causes of a 422."""
    node = schema.resolved()
    if not schema.builtin:
        yield from _combined(value, node, path)
    if isinstance(value, dict):
        for key in node.get("required", ()):
            if key not in value:
                yield required(f"{path}.{key}" if path else key)
        for key, below in value.items():
            if under := schema.field(key):
                yield from violations(below, under, f"{path}.{key}" if path else key)
        return
    if isinstance(value, list):
        yield from _list_violations(value, schema, path)
        return
    if "enum" in node and value not in node["enum"] and not (schema.root or path in ("apiVersion", "kind")):
        supported = ", ".join(f'"{each}"' for each in node["enum"])
        yield cause(path, f'Unsupported value: "{value}": supported values: {supported}', "FieldValueNotSupported")
    yield from _scalar_violations(value, node, path)


def _combined(value: Any, node: Object, path: str) -> Iterator[Object]:
    for keyword, said in _COMBINATORS.items():
        if keyword in node and not Draft202012Validator({keyword: node[keyword]}).is_valid(value):
            # The field is nil in apiserver's own words, too: go-openapi names only the path.
            yield cause("<nil>", f'Invalid value: "": "{path}" {said} ({keyword})')


_COMBINATORS = {
    "oneOf": "must validate one and only one schema",
    "anyOf": "must validate at least one schema",
    "allOf": "must validate all the schemas",
    "not": "must not validate the schema",
}


def _list_violations(value: list[Any], schema: Schema, path: str) -> Iterator[Object]:
    node, item = schema.resolved(), schema.item()
    for index, each in enumerate(value if item else ()):
        assert item is not None
        yield from violations(each, item, f"{path}[{index}]")
    if len(value) < node.get("minItems", 0):
        yield cause(path, f"Invalid value: {len(value)}: {path} in body should have at least {node['minItems']} items")
    if len(value) > node.get("maxItems", len(value)):
        yield cause(path, f"Too many: {len(value)}: must have at most {node['maxItems']} items", "FieldValueTooMany")
    if schema.list_type == "map" and schema.map_keys:
        seen: set[str] = set()
        for index, each in enumerate(value):
            keys = {key: each.get(key) for key in schema.map_keys} if isinstance(each, dict) else {}
            text = msgspec.json.encode(keys).decode()
            if text in seen and not schema.builtin:
                yield cause(f"{path}[{index}]", f"Duplicate value: {text}", "FieldValueDuplicate")
            seen.add(text)


def _scalar_violations(value: Any, node: Object, path: str) -> Iterator[Object]:
    if isinstance(value, str):
        if len(value) < node.get("minLength", 0):
            yield cause(
                path, f'Invalid value: "{value}": {path} in body should be at least {node["minLength"]} chars long'
            )
        if len(value) > node.get("maxLength", len(value)):
            yield cause(path, f"Too long: may not be more than {node['maxLength']} bytes", "FieldValueTooLong")
        if "pattern" in node and not re.search(node["pattern"], value):
            yield cause(path, f"Invalid value: \"{value}\": {path} in body should match '{node['pattern']}'")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < node.get("minimum", value):
            yield cause(
                path, f"Invalid value: {value}: {path} in body should be greater than or equal to {node['minimum']}"
            )
        if value > node.get("maximum", value):
            yield cause(
                path, f"Invalid value: {value}: {path} in body should be less than or equal to {node['maximum']}"
            )


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _JSON_TYPES.get(name, (object,)))


def _type_of(value: Any) -> str:
    return next(
        name for name in ("null", "boolean", "integer", "number", "string", "array", "object") if _is(value, name)
    )
