"""The clauses of a VirtualService, as Envoy's matchers. Pure."""

from collections.abc import Container, Iterator
from typing import Final

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from pymesh.resources.istio.virtual_service import HTTPMatchRequest, L4MatchAttributes, StringMatch, TLSMatchAttributes
from pymesh_controlplane.pilot.callers import Caller

ANYTHING = HTTPMatchRequest()
# The gateway that stands for all sidecars.
MESH: Final = ("mesh",)


def applies(
    match: HTTPMatchRequest | TLSMatchAttributes | L4MatchAttributes,
    port: int,
    caller: Caller,
    gateways: Container[str] = MESH,
) -> bool:
    """Whether the clauses that are known before any request hold: the port, the caller, and its gateway.

    `gateways` are the names that the caller's gateway has for whoever wrote `match`.
    """
    return (
        (match.port is None or match.port == port)
        and (not match.source_namespace or match.source_namespace == caller.namespace)
        and match.source_labels.items() <= dict(caller.labels).items()
        and (not match.gateways or any(name in gateways for name in match.gateways))
    )


def is_catch_all(match: HTTPMatchRequest) -> bool:
    """Whether it holds for every request that `applies` lets it see."""
    uri = match.uri
    any_path = uri is None or uri.prefix == "/"
    return any_path and not (
        match.method or match.authority or match.headers or match.without_headers or match.query_params
    )


def route_match(match: HTTPMatchRequest) -> route_components_pb2.RouteMatch:
    """The clauses that look at a request."""
    message = route_components_pb2.RouteMatch()
    uri = match.uri
    if uri is not None and uri.exact is not None:
        message.path = uri.exact
    elif uri is not None and uri.regex is not None:
        message.safe_regex.CopyFrom(_regex(uri.regex))
    else:
        message.prefix = uri.prefix if uri is not None and uri.prefix is not None else "/"
    if match.ignore_uri_case:
        message.case_sensitive.value = False
    message.headers.extend(_headers(match))
    for name, wanted in sorted(match.query_params.items()):
        query = message.query_parameters.add(name=name)
        if is_empty(wanted):
            query.present_match = True
        else:
            query.string_match.CopyFrom(string_matcher(wanted))
    return message


def _headers(match: HTTPMatchRequest) -> Iterator[route_components_pb2.HeaderMatcher]:
    if match.method is not None:
        yield _header(":method", match.method)
    if match.authority is not None:
        yield _header(":authority", match.authority)
    for name, wanted in sorted(match.headers.items()):
        yield _header(name, wanted)
    for name, unwanted in sorted(match.without_headers.items()):
        message = _header(name, unwanted)
        message.invert_match = True
        if not is_empty(unwanted):
            # A request without the header does not have the unwanted value either.
            message.treat_missing_header_as_empty = True
        yield message


def _header(name: str, wanted: StringMatch) -> route_components_pb2.HeaderMatcher:
    message = route_components_pb2.HeaderMatcher(name=name.lower())
    if is_empty(wanted):
        message.present_match = True
    else:
        message.string_match.CopyFrom(string_matcher(wanted))
    return message


def is_empty(match: StringMatch) -> bool:
    """Whether it only asks that there is a value: `{}`."""
    return match.exact is None and match.prefix is None and match.regex is None


def string_matcher(match: StringMatch) -> string_pb2.StringMatcher:
    """exact, prefix or regex; one of them is set."""
    if match.exact is not None:
        return string_pb2.StringMatcher(exact=match.exact)
    if match.prefix is not None:
        return string_pb2.StringMatcher(prefix=match.prefix)
    return string_pb2.StringMatcher(safe_regex=_regex(match.regex or ""))


def _regex(pattern: str) -> regex_pb2.RegexMatcher:
    return regex_pb2.RegexMatcher(regex=pattern)
