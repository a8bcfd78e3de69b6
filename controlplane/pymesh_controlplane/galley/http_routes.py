"""One route of a VirtualService: its clauses and what it does, as far as that needs no look at the world."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Final

from pymesh.names import FRAMING_HEADERS
from pymesh.resources.fields import seconds
from pymesh.resources.istio.virtual_service import (
    HeaderOperations,
    Headers,
    HTTPDirectResponse,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    StringMatch,
)
from pymesh_controlplane.galley import patterns
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot.routes import MAX_DIRECT_BODY

# Words of Envoy's x-envoy-retry-on and x-envoy-retry-grpc-on.
RETRY_ON: Final = frozenset(
    {
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
        "retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
        "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
    }
)  # fmt: skip


def check(findings: Findings, http: HTTPRoute, path: str) -> None:
    """Everything that is wrong with a route by itself."""
    possible = {"route": http.route, "redirect": http.redirect, "directResponse": http.direct_response}
    actions = [name for name, given in possible.items() if given]
    if len(actions) != 1:
        given = f"it has {' and '.join(actions)}" if actions else "it has none"
        findings.error(path, f"a route needs one of route, redirect and directResponse: {given}")
    elif not http.route:
        for name, value in (("rewrite", http.rewrite), ("timeout", http.timeout), ("retries", http.retries)):
            if value is not None:
                findings.error(f"{path}.{name}", f"'{name}' has no effect with a {actions[0]}: remove it")
    for index, match in enumerate(http.match):
        _check_match(findings, match, f"{path}.match[{index}]")
    _check_headers(findings, http.headers, f"{path}.headers")
    for index, item in enumerate(http.route):
        _check_headers(findings, item.headers, f"{path}.route[{index}].headers", hosts=len(http.route) == 1)
    if http.redirect is not None:
        _check_redirect(findings, http.redirect, f"{path}.redirect")
    if http.direct_response is not None:
        _check_direct_response(findings, http.direct_response, f"{path}.directResponse")
    if http.rewrite is not None:
        _check_rewrite(findings, http, http.rewrite, f"{path}.rewrite")
    if http.retries is not None:
        _check_retries(findings, http.retries, f"{path}.retries")


# --- Clauses -------------------------------------------------------------------------------------------------------


def _check_match(findings: Findings, match: HTTPMatchRequest, path: str) -> None:
    for where, value in _string_matches(match, path):
        _check_string(findings, value, where)
    uri = match.uri
    if uri is not None:
        for kind, text in (("exact", uri.exact), ("prefix", uri.prefix)):
            if text is not None and not text.startswith("/"):
                findings.error(f"{path}.uri.{kind}", f"a path starts with '/': write {kind}: /{text}")
        if uri.exact is None and uri.prefix is None and uri.regex is None:
            findings.error(f"{path}.uri", "uri needs one of exact, prefix and regex")
        if match.ignore_uri_case and uri.regex is not None:
            findings.error(f"{path}.ignoreUriCase", "has no effect on a regex: put (?i) in front of the pattern")
    for group, named in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for name in named:
            findings.check_header_name(f"{path}.{group}.{name}", name)
    if "" in match.query_params:
        findings.error(f"{path}.queryParams", "a query parameter has a name")


def _string_matches(match: HTTPMatchRequest, path: str) -> Iterator[tuple[str, StringMatch]]:
    for name, value in (("uri", match.uri), ("method", match.method), ("authority", match.authority)):
        if value is not None:
            yield f"{path}.{name}", value
    groups: Mapping[str, Mapping[str, StringMatch]] = {
        "headers": match.headers,
        "withoutHeaders": match.without_headers,
        "queryParams": match.query_params,
    }
    for group, named in groups.items():
        for name, value in named.items():
            yield f"{path}.{group}.{name}", value


def _check_string(findings: Findings, match: StringMatch, path: str) -> None:
    given = {
        kind: text
        for kind, text in (("exact", match.exact), ("prefix", match.prefix), ("regex", match.regex))
        if text is not None
    }
    if len(given) > 1:
        findings.error(path, f"only one of exact, prefix and regex is possible: it has {' and '.join(given)}")
    for kind, text in given.items():
        if has_control(text):
            findings.error(f"{path}.{kind}", "control characters cannot come in a request")
    if match.prefix == "":
        findings.error(f"{path}.prefix", "an empty prefix says nothing: write {} for 'is there', or remove the clause")
    if match.regex is not None and (problem := patterns.trouble(match.regex)):
        findings.error(f"{path}.regex", problem)


# --- Actions -------------------------------------------------------------------------------------------------------


def _check_headers(findings: Findings, headers: Headers | None, path: str, *, hosts: bool = True) -> None:
    if headers is None:
        return
    for side, operations in (("request", headers.request), ("response", headers.response)):
        for where, name, value in _changes(operations, f"{path}.{side}"):
            if name.lower() in {"host", ":authority"}:
                if side == "response" or not hosts or ".set." not in where:
                    findings.error(where, "the host can only be set, in a request, for all destinations of a route")
            elif name.lower() in FRAMING_HEADERS:
                findings.error(where, f"{name} says where a message or its connection ends: only proxies may change it")
            else:
                findings.check_header_name(where, name)
            if has_control(value):
                findings.error(where, "a header's value has no control characters")
            if value.replace("%%", "").count("%"):
                findings.error(
                    where, "variables such as %REQ(x)% are not supported yet; a percent sign itself is written %%"
                )


def _changes(operations: HeaderOperations, path: str) -> Iterator[tuple[str, str, str]]:
    for verb, values in (("set", operations.set), ("add", operations.add)):
        for name, value in values.items():
            yield f"{path}.{verb}.{name}", name, value
    for index, name in enumerate(operations.remove):
        yield f"{path}.remove[{index}]", name, ""


def _check_redirect(findings: Findings, redirect: HTTPRedirect, path: str) -> None:
    if redirect.uri is None and redirect.authority is None and redirect.port is None and redirect.scheme is None:
        findings.error(path, "a redirect to the same place never ends: give uri, authority, port or scheme")
    if redirect.uri is not None:
        if not redirect.uri.startswith("/"):
            findings.error(f"{path}.uri", "a path starts with '/'; the host goes into 'authority'")
        if "%PREFIX()%" in redirect.uri:
            findings.error(f"{path}.uri", "%PREFIX()% is not supported yet")
    for name, text in (("uri", redirect.uri), ("authority", redirect.authority)):
        if text is not None and (has_control(text) or not text):
            findings.error(f"{path}.{name}", "must not be empty or have control characters")


def _check_direct_response(findings: Findings, response: HTTPDirectResponse, path: str) -> None:
    body = response.body
    if body is None:
        return
    if (body.string is None) == (body.bytes is None):
        findings.error(f"{path}.body", "a body is one of string and bytes")
        return
    data = (body.string or "").encode(errors="replace")
    if body.bytes is not None:
        try:
            data = base64.b64decode(body.bytes, validate=True)
        except binascii.Error as error:
            findings.error(f"{path}.body.bytes", f"not base64: {error}")
    if len(data) > MAX_DIRECT_BODY:
        findings.error(f"{path}.body", f"the body has {len(data)} bytes, more than {MAX_DIRECT_BODY}")


def _check_rewrite(findings: Findings, http: HTTPRoute, rewrite: HTTPRewrite, path: str) -> None:
    if rewrite.uri is not None and rewrite.uri_regex_rewrite is not None:
        findings.error(path, "only one of uri and uriRegexRewrite is possible")
    if rewrite.uri is not None:
        if not rewrite.uri.startswith("/") or has_control(rewrite.uri):
            findings.error(f"{path}.uri", "a path starts with '/' and has no control characters")
    elif rewrite.uri_regex_rewrite is None and rewrite.authority is None:
        findings.error(path, "nothing is rewritten: give uri, uriRegexRewrite or authority")
    if rewrite.authority is not None and (not rewrite.authority or has_control(rewrite.authority)):
        findings.error(f"{path}.authority", "must not be empty or have control characters")
    if (
        rewrite.authority is not None
        and http.headers is not None
        and "host" in map(str.lower, http.headers.request.set)
    ):
        findings.error(f"{path}.authority", "the host is set in headers too: remove one of them")
    if rewrite.uri_regex_rewrite is not None:
        regex = rewrite.uri_regex_rewrite
        if problem := patterns.trouble(regex.match):
            findings.error(f"{path}.uriRegexRewrite.match", problem)
        elif problem := patterns.substitution_trouble(regex.match, regex.rewrite):
            findings.error(f"{path}.uriRegexRewrite.rewrite", problem)
        elif has_control(regex.rewrite):
            findings.error(f"{path}.uriRegexRewrite.rewrite", "a path has no control characters")


def _check_retries(findings: Findings, retries: HTTPRetry, path: str) -> None:
    for word in (retries.retry_on or "").split(","):
        plain = word.strip()
        if plain.isascii() and plain.isdecimal():
            if not 100 <= int(plain) <= 599:
                findings.error(f"{path}.retryOn", f"{plain} is not a status")
        elif plain and plain not in RETRY_ON:
            findings.error(f"{path}.retryOn", f"'{plain}' is not a reason to retry{findings.near(plain, RETRY_ON)}")
    if retries.backoff is not None and seconds(retries.backoff) < 0.001:
        findings.error(f"{path}.backoff", "must be at least 1ms")


def has_control(text: str) -> bool:
    """Whether `text` has characters that HTTP forbids in a value (RFC 9110, section 5.5)."""
    return any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)
