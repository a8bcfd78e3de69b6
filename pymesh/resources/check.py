"""A value held against a kind: everything that is wrong with it, in words, each with its field path.

msgspec converts values to structs, and stops at the first mistake. This walk goes on: it descends the same types, block
by block, and lets msgspec judge the leaves.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import inspect

from pymesh.errors import ConfigError
from pymesh.resources.documents import describe
from pymesh.resources.fields import UNSUPPORTED
from pymesh.resources.resource import child_path

T = TypeVar("T")

# More mistakes than this in one resource are not read by anyone; the rest shows up when these are mended.
MAX_ERRORS: Final = 50

# What msgspec says of each kind, asked once: it takes milliseconds.
_types: dict[type, inspect.Type] = {}

# Fields of every object in which any name is good: they belong to others.
_NEVER_LOOKED_INTO: Final = (inspect.AnyType, inspect.CustomType, inspect.RawType)


def convert(value: Mapping[str, object], kind: type[T]) -> T | list[ConfigError]:
    """The struct that `value` stands for, or everything that keeps it from being one.

    A field that is null counts as not written, as in Kubernetes.
    """
    bare = _without_nulls(value)
    errors: list[ConfigError] = []
    for error in _check(bare, _type_of(kind), ""):
        errors.append(error)
        if len(errors) == MAX_ERRORS:
            break
    if errors:
        return errors
    try:
        return msgspec.convert(bare, kind, str_keys=True)
    except msgspec.ValidationError as error:  # what the walk above let through, it refuses all the same
        return [ConfigError(str(error))]


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'weight'?` for `weigth`, or nothing if no known name is close."""
    spelled = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.6)
    return f"; did you mean '{spelled[close[0]]}'?" if close else ""


def _type_of(kind: type) -> inspect.Type:
    if kind not in _types:
        _types[kind] = inspect.type_info(kind)
    return _types[kind]


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _check(value: object, kind: inspect.Type, path: str, expected: str = "") -> Iterator[ConfigError]:
    if isinstance(kind, inspect.Metadata):
        schema = kind.extra_json_schema or {}
        yield from _check(value, kind.type, path, str(schema.get("description", expected)))
    elif isinstance(kind, inspect.UnionType):
        yield from _check_union(value, kind, path, expected)
    elif isinstance(kind, inspect.StructType):
        yield from _check_struct(value, kind, path)
    elif isinstance(kind, inspect.ListType):
        yield from _check_list(value, kind, path, expected)
    elif isinstance(kind, inspect.DictType):
        yield from _check_dict(value, kind, path)
    elif not isinstance(kind, _NEVER_LOOKED_INTO):
        yield from _check_leaf(value, kind, path, expected)


def _check_union(value: object, kind: inspect.UnionType, path: str, expected: str) -> Iterator[ConfigError]:
    options = [option for option in kind.types if not isinstance(option, inspect.NoneType)]
    if len(options) == 1:
        yield from _check(value, options[0], path, expected)
        return
    if not any(next(_check(value, option, path), None) is None for option in options):
        words = " or ".join(dict.fromkeys(expected or _expected(option) for option in options))
        yield ConfigError(f"{describe(value)} is not {words}", path=path)


def _check_struct(value: object, kind: inspect.StructType, path: str) -> Iterator[ConfigError]:
    if not isinstance(value, dict):
        hint = ": remove the '-' before it" if isinstance(value, list) else ""
        yield ConfigError(f"{describe(value)} is not a group of fields{hint}", path=path)
        return
    fields = {field.encode_name: field for field in kind.fields}
    for name, item in value.items():
        here = child_path(path, name)
        if name not in fields:
            if kind.forbid_unknown_fields:
                where = f" in {path}" if path else ""
                yield ConfigError(f"unknown field '{name}'{where}{near(name, fields)}", path=here)
        elif _unsupported(fields[name].type):
            yield ConfigError(f"'{name}' is not supported yet: remove it", path=here)
        else:
            yield from _check(item, fields[name].type, here)
    for field in kind.fields:
        if field.required and field.encode_name not in value:
            where = f" in {path}" if path else ""
            yield ConfigError(f"'{field.encode_name}' is missing{where}", path=child_path(path, field.encode_name))


def _check_list(value: object, kind: inspect.ListType, path: str, expected: str) -> Iterator[ConfigError]:
    if not isinstance(value, list):
        hint = ": put '- ' before it" if value is not None else ""
        yield ConfigError(f"{describe(value)} is not a list{hint}", path=path)
        return
    if kind.min_length is not None and len(value) < kind.min_length:
        items = "one item" if kind.min_length == 1 else f"{kind.min_length} items"
        yield ConfigError(f"{expected or f'a list with at least {items}'} is needed", path=path)
    for index, item in enumerate(value):
        yield from _check(item, kind.item_type, child_path(path, index))


def _check_dict(value: object, kind: inspect.DictType, path: str) -> Iterator[ConfigError]:
    if not isinstance(value, dict):
        yield ConfigError(f"{describe(value)} is not a group of names with values", path=path)
        return
    for name, item in value.items():
        here = child_path(path, name)
        yield from _check_key(name, kind.key_type, here)
        yield from _check(item, kind.value_type, here)


def _check_key(name: str, kind: inspect.Type, path: str) -> Iterator[ConfigError]:
    if isinstance(kind, inspect.Metadata) and isinstance(kind.type, inspect.IntType):
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 20 else name
        yield from _check(number, kind, path)


def _check_leaf(value: object, kind: inspect.Type, path: str, expected: str) -> Iterator[ConfigError]:
    if _fits(value, kind):
        return
    if isinstance(kind, inspect.LiteralType):
        allowed = [str(option) for option in kind.values]
        hint = near(value, allowed) if isinstance(value, str) else ""
        choice = allowed[0] if len(allowed) == 1 else f"one of {', '.join(allowed)}"
        yield ConfigError(f"{describe(value)} is not {choice}{hint}", path=path)
        return
    hint = ""
    if isinstance(kind, inspect.StrType) and isinstance(value, bool | int | float) and not expected:
        hint = f': put it in quotes, as in "{str(value).lower() if isinstance(value, bool) else value}"'
    elif isinstance(kind, inspect.IntType | inspect.FloatType) and isinstance(value, str) and value.isdecimal():
        hint = ": remove the quotes"
    yield ConfigError(f"{describe(value)} is not {expected or _expected(kind)}{hint}", path=path)


def _fits(value: object, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.StrType):
        if not isinstance(value, str):
            return False
        fits = (kind.min_length or 0) <= len(value) and (kind.max_length is None or len(value) <= kind.max_length)
        return fits and (kind.pattern is None or re.search(kind.pattern, value) is not None)
    if isinstance(kind, inspect.IntType):
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)
    if isinstance(kind, inspect.FloatType):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)
    if isinstance(kind, inspect.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, inspect.LiteralType):
        return not isinstance(value, bool) and value in kind.values
    raise TypeError(f"no field of the kinds is a {kind}: teach this walk about it first")


def _expected(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata):
        schema = kind.extra_json_schema or {}
        return str(schema.get("description") or _expected(kind.type))
    if isinstance(kind, inspect.StrType):
        return "text"
    if isinstance(kind, inspect.IntType):
        return "a whole number" if kind.ge is None else f"a whole number, {kind.ge} or more"
    if isinstance(kind, inspect.FloatType):
        return "a number"
    return "true or false" if isinstance(kind, inspect.BoolType) else "another type"


def _unsupported(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.Metadata) and bool(kind.extra and kind.extra.get(UNSUPPORTED))
