"""Bodies of requests: media types, decoding into objects, and what becomes of fields that nobody knows."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from tests.support.kubernetes.errors import ApiError, Object, bad_request, cause, unsupported_media_type
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.requests import Target
from tests.support.kubernetes.schema import BASE64, Schema, fill, prune, wrong_types

JSON, YAML = "application/json", "application/yaml"
# Bytes; apiserver's own limit of a request's body.
LARGEST = 3 * 1024 * 1024


def read(body: bytes, content_type: str) -> Any:
    """The value of a JSON or YAML body.

    Raises:
        ApiError: 400, 413, 415.
    """
    media = content_type.partition(";")[0].strip() or JSON
    if media not in (JSON, YAML):
        raise unsupported_media_type([JSON, YAML])
    return parsed(body, yaml_too=media == YAML)


def parsed(body: bytes, *, yaml_too: bool = False) -> Any:
    """The value of a body that is known to be JSON (or YAML).

    Raises:
        ApiError: 400, 413.
    """
    if len(body) > LARGEST:
        raise ApiError(413, "RequestEntityTooLarge", f"limit is {LARGEST}")
    try:
        return yaml.safe_load(body) if yaml_too else msgspec.json.decode(body)
    except (msgspec.DecodeError, yaml.YAMLError) as error:
        raise bad_request(f"the object provided is unrecognized (must be of type {error})") from None


def to_object(value: Any, kind: Kind, target: Target) -> Object:
    """An object of this kind for this path: what it leaves out is filled in, what contradicts the path is refused.

    Raises:
        ApiError: 400.
    """
    if not isinstance(value, dict):
        raise bad_request(f"{kind.kind} in version {kind.version!r} cannot be handled as a {kind.kind}: not an object")
    version, name = value.get("apiVersion", kind.api_version), value.get("kind", kind.kind)
    if version != kind.api_version:
        raise bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({kind.api_version})"
        )
    if name != kind.kind:
        raise bad_request(f"{name} in version {kind.version!r} cannot be handled as a {kind.kind}: no kind {name!r}")
    meta = value.get("metadata")
    if meta is not None and not isinstance(meta, dict):
        raise bad_request(f"{kind.kind} in version {kind.version!r} cannot be handled as a {kind.kind}: metadata")
    made: Object = {"apiVersion": kind.api_version, "kind": kind.kind} | value | {"metadata": dict(meta or {})}
    _place(made["metadata"], kind, target)
    return made


def _place(meta: Object, kind: Kind, target: Target) -> None:
    if not kind.namespaced:
        if meta.get("namespace"):
            raise bad_request("namespace must not be provided for cluster-scoped resources")
        meta.pop("namespace", None)
    elif meta.get("namespace") or target.namespace:
        if meta.get("namespace") not in (None, "", target.namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        meta["namespace"] = target.namespace
    if target.verb != "create" and meta.get("name", target.name) != target.name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({target.name})")


def strictness(query: Mapping[str, str]) -> str:
    """What becomes of unknown fields: Ignore, Warn or Strict.

    Raises:
        ApiError: 422.
    """
    asked = query.get("fieldValidation", "") or "Warn"
    if asked not in ("Ignore", "Warn", "Strict"):
        message = f'fieldValidation: Unsupported value: "{asked}": supported values: "", "Ignore", "Strict", "Warn"'
        raise ApiError(422, "Invalid", message)
    return asked


def decoded(made: Object, kind: Kind, strict: str, warnings: list[str], *, defaulted: bool = True) -> Object:
    """Drop what the schema does not know and fill in a CRD's defaults, in place; the object itself.

    Raises:
        ApiError: 400, wrong types, or unknown fields where that is asked for.
    """
    schema = kind.schema
    if schema is None:
        return made
    unknown = prune(made, schema)
    if unknown and strict == "Strict":
        said = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise bad_request(
            f"{kind.kind} in version {kind.version!r} cannot be handled as a {kind.kind}: strict decoding error: {said}"
            .replace("'", '"')
        )  # fmt: skip
    if strict == "Warn":
        warnings += [f'unknown field "{path}"' for path in unknown]
    if not kind.custom:
        _check_types(made, kind, schema)
    if defaulted:
        fill(made, schema)
    return made


# What Go's JSON decoder calls the values that it finds.
_INDEX = re.compile(r"\[[0-9]+]")
_GO = {"boolean": "bool", "integer": "number"}


def _check_types(made: Object, kind: Kind, schema: Schema) -> None:
    """A built-in object that does not fit its Go type is not even decoded."""
    for path, expected, found in wrong_types(made, schema):
        if expected == BASE64:
            said = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}'
            raise bad_request(f"{said}: illegal base64 data at input byte 0")
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: json: cannot unmarshal '
            f"{_GO.get(found, found)} into Go struct field {_INDEX.sub('', path)} of type {expected}"
        )


def wrong_custom_types(made: Object, kind: Kind) -> Iterator[Object]:
    """Causes of a 422: where a custom resource has another JSON type than its CRD says."""
    for path, expected, found in wrong_types(made, kind.schema) if kind.schema and kind.custom else ():
        message = f'Invalid value: "{found}": {path} in body must be of type {expected}: "{found}"'
        yield cause(path, message, "FieldValueTypeInvalid")
