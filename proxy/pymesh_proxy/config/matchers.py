"""String, header and query parameter matchers, compiled to one function each.

Values are bytes, as they came over the wire. A header that is there several times matches if one of its fields does.

Source: envoy.type.matcher.v3.StringMatcher, envoy.config.route.v3.{HeaderMatcher,QueryParameterMatcher}
"""

import re
from collections.abc import Callable
from typing import Final

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.fields import one_of, required
from pymesh_proxy.config.patterns import full_match

ValueMatch = Callable[[bytes], bool]
HeadMatch = Callable[[Head], bool]

_INTEGER: Final = re.compile(rb"[ \t]*[-+]?[0-9]{1,19}[ \t]*")

# Parts of the start line that Envoy shows as headers.
_PSEUDO: Final[dict[str, Callable[[Head], bytes]]] = {
    ":method": lambda head: head.method,
    ":path": lambda head: head.path,
    ":authority": lambda head: head.authority,
    "host": lambda head: head.authority,
}


def string(matcher: StringMatcher, path: str) -> ValueMatch:
    """One function for a StringMatcher."""
    which = one_of(matcher, "match_pattern", path)
    if which == "safe_regex":
        return full_match(matcher.safe_regex, join(path, which), ignore_case=matcher.ignore_case)
    text: str = getattr(matcher, which)
    if which != "exact":
        required(text, join(path, which))
    return _compare(which, text, ignore_case=matcher.ignore_case)


def _compare(kind: str, text: str, *, ignore_case: bool = False) -> ValueMatch:
    """exact, prefix, suffix or contains; the case of ASCII letters only is ever ignored, as in Envoy."""
    if ignore_case:
        plain = _compare(kind, text.lower())
        return lambda value: plain(value.lower())
    wanted = text.encode()
    match kind:
        case "exact":
            return lambda value: value == wanted
        case "prefix":
            return lambda value: value.startswith(wanted)
        case "suffix":
            return lambda value: value.endswith(wanted)
        case _:
            return lambda value: wanted in value


def subject_alt_name(matcher: SubjectAltNameMatcher, path: str) -> Callable[[str], bool]:
    """A matcher of one kind of SAN. A SAN is a URI if it holds `://`, and a DNS name otherwise."""
    accepts = string(matcher.matcher, join(path, "matcher"))
    wants_uri = matcher.san_type == SubjectAltNameMatcher.URI
    return lambda name: ("://" in name) is wants_uri and accepts(name.encode())


def any_subject_alt_name(matcher: StringMatcher, path: str) -> Callable[[str], bool]:
    """A matcher of a SAN of whichever kind."""
    accepts = string(matcher, path)
    return lambda name: accepts(name.encode())


def header(matcher: HeaderMatcher, path: str) -> HeadMatch:
    """One function for a HeaderMatcher.

    A header that is missing matches nothing but `present_match: false`, not even an inverted matcher, unless
    `treat_missing_header_as_empty` says to take it for an empty one. An inverted matcher wants none of several fields
    of the name to match.
    """
    name = required(matcher.name, join(path, "name")).lower()
    get = _getter(name, path)
    encoded = name.encode()
    which = matcher.WhichOneof("header_match_specifier") or "present_match"
    invert = matcher.invert_match
    missing_as_empty = matcher.treat_missing_header_as_empty
    if which == "present_match":
        present = matcher.present_match or not matcher.HasField("present_match")
        wanted = present is not invert
        return lambda head: (missing_as_empty or get(head) is not None) is wanted
    accepts = _header_value(matcher, which, join(path, which))
    if (part := _PSEUDO.get(name)) is not None and name.startswith(":"):  # always there, and once
        return lambda head: accepts(part(head)) is not invert

    field = name not in _PSEUDO

    def matches(head: Head) -> bool:
        value = head.get(encoded) if field else get(head)
        if value is None:
            if not missing_as_empty:
                return False
            value = b""
        # Only a value with a comma can be several fields, joined.
        matched = accepts(value) if b"," not in value else any(map(accepts, head.values(encoded) or (value,)))
        return matched is not invert

    return matches


def _getter(name: str, path: str) -> Callable[[Head], bytes | None]:
    if name in _PSEUDO:
        return _PSEUDO[name]
    if name.startswith(":"):
        raise ConfigError(f"{name} is not supported; supported: {', '.join(_PSEUDO)}", path=join(path, "name"))
    encoded = name.encode()
    return lambda head: head.get(encoded)


def _header_value(matcher: HeaderMatcher, which: str, path: str) -> ValueMatch:
    match which:
        case "string_match":
            return string(matcher.string_match, path)
        case "safe_regex_match":
            return full_match(matcher.safe_regex_match, path)
        case "range_match":
            start, end = matcher.range_match.start, matcher.range_match.end
            return lambda value: _INTEGER.fullmatch(value) is not None and start <= int(value) < end
        case _:
            text: str = getattr(matcher, which)
            return _compare(which.removesuffix("_match"), text if which == "exact_match" else required(text, path))


def query_parameter(matcher: QueryParameterMatcher, path: str) -> HeadMatch:
    """One function for a QueryParameterMatcher. Names and values are compared as they stand in the URL, undecoded."""
    name = required(matcher.name, join(path, "name")).encode()
    which = matcher.WhichOneof("query_parameter_match_specifier")
    if which == "string_match":
        accepts = string(matcher.string_match, join(path, which))
        return lambda head: (value := _parameter(head.path, name)) is not None and accepts(value)
    if which == "present_match" and not matcher.present_match:
        raise ConfigError("absence of a parameter cannot be matched", path=join(path, which))
    return lambda head: _parameter(head.path, name) is not None


def _parameter(target: bytes, name: bytes) -> bytes | None:
    """Value of the first query parameter `name` in a request target; empty where it stands without `=`."""
    query = target.partition(b"?")[2].partition(b"#")[0]
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name:
            return value
    return None
