"""/openapi/v3 as far as clients use it: which kinds take `fieldValidation` and strategic patches, and their schemas."""

import functools
import hashlib
import re

import msgspec

from tests.support.kubernetes.errors import Object, no_such_path
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.patches import APPLY, JSON_PATCH, MERGE, STRATEGIC
from tests.support.kubernetes.registry import Registry
from tests.support.kubernetes.schema import definition_name, definitions

_REFERENCE = re.compile(r'"#/\$defs/([^"]+)"')
_QUERY = ("dryRun", "fieldManager", "fieldValidation", "force")


def index(registry: Registry) -> Object:
    """GET /openapi/v3."""
    paths = [_path(group, version) for group in ("", *registry.groups()) for version in registry.versions(group)]
    return {
        "paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={_hash(registry, path)}"} for path in paths}
    }


def document(registry: Registry, path: str) -> Object:
    """GET /openapi/v3/<path>.

    Raises:
        ApiError: 404.
    """
    parts = path.split("/")
    group, version = ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2]) if len(parts) == 3 else ("", "")
    kinds = registry.served(group, version)
    if not kinds:
        raise no_such_path()
    schemas: Object = {}
    for kind in kinds:
        schemas.update(_schemas(kind))
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": {f"/{path}/{_collection(kind)}/{{name}}": _operations(kind) for kind in kinds},
        "components": {"schemas": schemas},
    }


def _path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _hash(registry: Registry, path: str) -> str:
    """Clients keep documents by their hash: it has to change with what is served."""
    return hashlib.sha256(msgspec.json.encode(sorted(document(registry, path)["paths"]))).hexdigest()[:32]


def _collection(kind: Kind) -> str:
    return f"namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else kind.plural


def _operations(kind: Kind) -> Object:
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _QUERY]
    media = [APPLY, JSON_PATCH, MERGE, *([] if kind.custom else [STRATEGIC])]
    patch = {
        "operationId": f"patch{kind.version}{kind.kind}",
        "parameters": parameters,
        "requestBody": {"content": {each: {"schema": {"type": "object"}} for each in media}, "required": True},
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": gvk,
    }
    return {"patch": patch}


def _schemas(kind: Kind) -> Object:
    if not kind.custom:
        name = definition_name(kind.group, kind.version, kind.kind)
        return {each: _openapi(each) for each in _closure(name)} if name else {}
    reversed_group = ".".join(reversed(kind.group.split(".")))
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    node = dict(kind.schema.node) if kind.schema else {"type": "object"}
    return {f"{reversed_group}.{kind.version}.{kind.kind}": node | {"x-kubernetes-group-version-kind": [gvk]}}


@functools.cache
def _closure(name: str) -> frozenset[str]:
    """A definition and all that it refers to."""
    found, to_do = set[str](), {name}
    while to_do:
        each = to_do.pop()
        found.add(each)
        to_do |= set(_REFERENCE.findall(msgspec.json.encode(definitions()[each]).decode())) - found
    return frozenset(found)


@functools.cache
def _openapi(name: str) -> Object:
    """A definition as OpenAPI writes it: one type, no null, references into the document."""
    text = msgspec.json.encode(definitions()[name]).decode().replace("#/$defs/", "#/components/schemas/")
    node: Object = msgspec.json.decode(re.sub(r'"type":\["(\w+)","null"\]', r'"type":"\1"', text))
    return node
