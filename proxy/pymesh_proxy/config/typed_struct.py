"""Readings of a TypedStruct, the form that our own filters travel in. Unknown keys are refused, like unknown fields.

Raise ConfigError with the path of what is wrong, all of them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.struct_pb2 import Struct, Value

from pymesh.errors import ConfigError
from pymesh.xds.check import join

# Seconds: a request that waits longer for a filter is worse off than without one.
MAX_DURATION: Final = 60.0
_DURATION: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?s")


def fields(value: Struct, path: str, required: set[str], optional: set[str]) -> Mapping[str, Value]:
    """The fields of an object, none missing, none unknown."""
    found = value.fields
    for key in sorted(found.keys() - required - optional):
        raise ConfigError("this field is not supported; see docs/support.md", path=join(path, key))
    for key in sorted(required - found.keys()):
        raise ConfigError("is required", path=join(path, key))
    return found


def items(value: Value, path: str) -> list[tuple[str, Value]]:
    """The items of a list, each with its path."""
    if value.WhichOneof("kind") != "list_value":
        raise ConfigError("must be a list", path=path)
    return [(f"{path}[{index}]", item) for index, item in enumerate(value.list_value.values)]


def text(value: Value, path: str) -> str:
    """A text that is not empty."""
    if value.WhichOneof("kind") != "string_value" or not value.string_value:
        raise ConfigError("must be a text that is not empty", path=path)
    return value.string_value


def word(value: Value | None, words: Sequence[str], path: str) -> str:
    """One of `words`."""
    if value is None:
        raise ConfigError("is required", path=path)
    if value.string_value not in words:
        raise ConfigError(f"must be one of {', '.join(words)}", path=path)
    return value.string_value


def flag(value: Value | None, path: str) -> bool:
    """Yes or no; no where nothing is said."""
    if value is None:
        return False
    if value.WhichOneof("kind") != "bool_value":
        raise ConfigError("must be true or false", path=path)
    return value.bool_value


def duration(value: Value | None, path: str, default: float, longest: float = MAX_DURATION) -> float:
    """Seconds, above 0, at most `longest`."""
    if value is None:
        return default
    said = value.string_value
    if not _DURATION.fullmatch(said) or not 0 < float(said[:-1]) <= longest:
        raise ConfigError(f"must be a duration above 0, at most {longest:g} s, as in 0.2s", path=path)
    return float(said[:-1])
