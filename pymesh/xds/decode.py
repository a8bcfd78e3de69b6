"""Strict reading of bootstrap files, YAML or JSON in Envoy's v3 schema.

Whatever is malformed, unknown, misspelt, of the wrong type, given twice or not supported is refused with its field path
and, as far as the file tells, its line and column.
"""

import difflib
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar, cast

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf import any_pb2, json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pymesh.errors import ConfigError
from pymesh.xds.check import MESSAGES, check, join
from pymesh.xds.text import camel_case, parse

M = TypeVar("M", bound=Message)

_KINDS: Final = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_INT32: "a whole number",
    FieldDescriptor.CPPTYPE_INT64: "a whole number",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number, not below 0",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number, not below 0",
}


def load_bootstrap(text: str, file: str) -> Bootstrap:
    """The Envoy v3 bootstrap in `text`, YAML or JSON, checked against the table of supported fields.

    Args:
        text: content of the file.
        file: its name, for error messages.

    Raises:
        ConfigError: it is malformed, or holds a field that is unknown or not supported.
    """
    with _no_collections():
        return _loaded(text, file)  # what it was read into is freed before collections begin again


def _loaded(text: str, file: str) -> Bootstrap:
    document = parse(text, file)
    try:
        bootstrap = from_data(document.data, Bootstrap)
        check(bootstrap)
    except ConfigError as error:
        raise document.located(error) from error
    return bootstrap


@contextmanager
def _no_collections() -> Iterator[None]:
    """Without collections of garbage while a file is read: what is made of it is no garbage before it is done.

    A file with 10,000 routes becomes a million objects; to search them again and again takes three quarters of the
    time. What a file may become is bounded (`text.MAX_NODES`).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def from_data(data: object, kind: type[M]) -> M:
    """`data` (dicts, lists, scalars, as protobuf's JSON mapping has them) as a message of this kind.

    Raises:
        ConfigError: with the path of the field that is unknown or of the wrong type.
    """
    message = kind()
    error = _merge(data, message)
    if error is not None:
        # protobuf's own messages name the field or the path or neither: look for the place ourselves.
        raise _locate(data, _descriptor(message), "") or ConfigError(str(error)) from error
    return message


def _merge(data: object, message: Message) -> Exception | None:
    """Fill `message` from `data`; what protobuf has to say against it, if anything."""
    if isinstance(data, list):
        return TypeError("a list")  # which ParseDict would take for an empty message if it were empty
    try:
        json_format.ParseDict(data, message)  # type: ignore[arg-type]  # scalars are refused by it
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        return error
    return None


def _locate(data: object, descriptor: Descriptor, path: str) -> ConfigError | None:
    """The first thing in `data` that a message of this type cannot hold."""
    if descriptor.full_name == any_pb2.Any.DESCRIPTOR.full_name:
        return _locate_in_any(data, path)
    if descriptor.full_name.startswith("google.protobuf."):
        return _try(data, descriptor, path)
    if not isinstance(data, Mapping):
        return ConfigError(f"expected a mapping of fields, found {_name(data)}", path=path)
    fields = {field.name: field for field in descriptor.fields} | {
        field.json_name: field for field in descriptor.fields
    }
    groups: dict[str, str] = {}
    for key, value in data.items():
        field = fields.get(key)
        if field is None:
            return ConfigError(f"unknown field{_suggest(key, descriptor)}", path=join(path, str(key)))
        here = join(path, field.name)
        if field.containing_oneof is not None and value is not None:
            other = groups.setdefault(field.containing_oneof.name, field.name)
            if other != field.name:
                return ConfigError(f"cannot be given together with {other}", path=here)
        found = None if value is None else _locate_in_field(value, field, here)
        if found is not None:
            return found
    return None


def _locate_in_field(value: object, field: FieldDescriptor, path: str) -> ConfigError | None:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        if not isinstance(value, Mapping):
            return ConfigError(f"expected a mapping, found {_name(value)}", path=path)
        inner = entry.fields_by_name["value"]
        found = (_locate_single(item, inner, f'{path}["{key}"]') for key, item in value.items())
        return next(filter(None, found), None)
    if field.is_repeated and not isinstance(value, list):
        return ConfigError(f"expected a list, found {_name(value)}", path=path)
    if isinstance(value, list) and field.is_repeated:
        found = (_locate_single(item, field, f"{path}[{index}]") for index, item in enumerate(value))
        return next(filter(None, found), None)
    return _locate_single(value, field, path)


def _locate_single(value: object, field: FieldDescriptor, path: str) -> ConfigError | None:
    if value is None:
        return ConfigError("must not be empty", path=path)
    if field.message_type is not None:
        return _locate(value, field.message_type, path)
    alone = _new(field.containing_type)
    if _merge({field.name: [value] if field.is_repeated else value}, alone) is not None:
        return ConfigError(f"expected {_expected(field)}, found {_name(value)}", path=path)
    return None


def _locate_in_any(data: object, path: str) -> ConfigError | None:
    if not isinstance(data, Mapping):
        return ConfigError(f"expected a mapping with `@type`, found {_name(data)}", path=path)
    url = data.get("@type")
    if not isinstance(url, str):
        return ConfigError("`@type` is missing: the type of this message, as in type.googleapis.com/…", path=path)
    kind = MESSAGES.get(url.rpartition("/")[2])
    if kind is None:
        return ConfigError(f"the type {url!r} is not supported; see docs/support.md", path=path)
    return _locate({key: value for key, value in data.items() if key != "@type"}, _descriptor(kind()), path)


def _try(data: object, descriptor: Descriptor, path: str) -> ConfigError | None:
    """Whether `data` is a value of this well-known type (a duration, a wrapper, a struct)."""
    if _merge(data, _new(descriptor)) is not None:
        kinds = {"Duration": 'a duration in seconds, as in "2.5s"', "Struct": "a mapping of JSON values"}
        value = descriptor.fields_by_name.get("value")
        expected = kinds.get(descriptor.name) or (_expected(value) if value is not None else descriptor.name)
        return ConfigError(f"expected {expected}, found {_name(data)}", path=path)
    return None


def _descriptor(message: Message) -> Descriptor:
    return cast("Descriptor", message.DESCRIPTOR)


def _new(descriptor: Descriptor | None) -> Message:
    assert descriptor is not None
    message: Message = GetMessageClass(descriptor)()
    return message


def _expected(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return "one of " + ", ".join(value.name for value in field.enum_type.values)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "bytes in base64"
    return _KINDS[field.cpp_type]


def _name(value: object) -> str:
    """What `value` is, for a person."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    return repr(value) if len(repr(value)) <= 40 else repr(value)[:40] + "…"


def _suggest(key: object, descriptor: Descriptor) -> str:
    names = [field.name for field in descriptor.fields]
    close = difflib.get_close_matches(str(key), names + [camel_case(name) for name in names], n=1)
    return f"; did you mean {close[0]!r}?" if close else f" of {descriptor.name}"
