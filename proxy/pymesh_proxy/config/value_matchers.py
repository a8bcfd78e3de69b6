"""Matchers of structured values, such as the claims of a token that a filter has left in the record's metadata.

Values are objects of JSON. What is not there matches nothing; nor does anything match `present_match: false`, as in
Envoy: absence is `present_match: true`, inverted.

Source: envoy.type.matcher.v3.{MetadataMatcher,ValueMatcher,DoubleMatcher}
"""

from collections.abc import Callable, Mapping
from typing import Final

from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.number_pb2 import DoubleMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.config import matchers
from pymesh_proxy.config.fields import one_of, required

# Asked about RequestRecord.metadata: by the name of a filter, what it has left.
MetadataMatch = Callable[[Mapping[str, Mapping[str, object]]], bool]
JsonMatch = Callable[[object], bool]

# Levels of matchers within matchers; people write one or two.
MAX_DEPTH: Final = 16


class _Missing:
    """Stands for a value that is not there, which JSON's null is."""


_MISSING: Final = _Missing()


def metadata(matcher: MetadataMatcher, path: str) -> MetadataMatch:
    """One function for a MetadataMatcher.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    name = required(matcher.filter, join(path, "filter"))
    if not matcher.path:
        raise ConfigError("at least one is required", path=join(path, "path"))
    keys = []
    for index, segment in enumerate(matcher.path):
        here = f"{join(path, 'path')}[{index}]"
        one_of(segment, "segment", here)
        keys.append(required(segment.key, join(here, "key")))
    accepts = _value(matcher.value, join(path, "value"), MAX_DEPTH)
    invert = matcher.invert

    def matches(told: Mapping[str, Mapping[str, object]]) -> bool:
        found: object = told.get(name, _MISSING)
        for key in keys:
            found = found.get(key, _MISSING) if isinstance(found, Mapping) else _MISSING
        return accepts(found) is not invert

    return matches


def _value(matcher: ValueMatcher, path: str, depth: int) -> JsonMatch:
    if not depth:
        raise ConfigError(f"matchers within matchers, more than {MAX_DEPTH} deep", path=path)
    which = one_of(matcher, "match_pattern", path)
    here = join(path, which)
    match which:
        case "null_match":
            return lambda value: value is None
        case "bool_match":
            return _boolean(matcher.bool_match)
        case "present_match":
            wanted = matcher.present_match
            return lambda value: wanted and value is not _MISSING
        case "double_match":
            return _number(matcher.double_match, here)
        case "string_match":
            accepts = matchers.string(matcher.string_match, here)
            return lambda value: isinstance(value, str) and accepts(value.encode())
        case "list_match":
            one_of(matcher.list_match, "match_pattern", here)
            one = _value(matcher.list_match.one_of, join(here, "one_of"), depth - 1)
            return lambda value: isinstance(value, list) and any(map(one, value))
        case _:
            items = matcher.or_match.value_matchers
            if len(items) < 2:
                raise ConfigError("at least two are required", path=join(here, "value_matchers"))
            some = [_value(item, f"{here}.value_matchers[{index}]", depth - 1) for index, item in enumerate(items)]
            return lambda value: any(accepts(value) for accepts in some)


def _boolean(wanted: bool) -> JsonMatch:
    return lambda value: value is wanted


def _number(matcher: DoubleMatcher, path: str) -> JsonMatch:
    """A number that is equal, or at least the range's start and below its end; a boolean is none."""
    if one_of(matcher, "match_pattern", path) == "exact":
        exact = matcher.exact
        return lambda value: _is_number(value) and value == exact
    start, end = matcher.range.start, matcher.range.end
    return lambda value: isinstance(value, int | float) and _is_number(value) and start <= value < end


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
