"""Which part of a request leads it to its endpoint: envoy RouteAction.HashPolicy → a function.

The hashes are those of Envoy (source/common/http/hash_policy.cc), so that a client keeps its endpoint where proxies of
both kinds stand side by side.
"""

from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Final, TypeAlias

from envoy.config.route.v3.route_components_pb2 import RouteAction
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.type.v3.hash_policy_pb2 import HashPolicy as TcpHashPolicy

from pymesh.consistent_hashing import COOKIE_TEXT
from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config import patterns
from pymesh_proxy.config.fields import duration, one_of, required
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.hashing import MASK, xxh64, xxh64_of_all

# The key, and the cookie that makes the client bring it the next time (empty: none is set).
Found: TypeAlias = tuple[int | None, bytes]
Method: TypeAlias = Callable[[Head, Facts], Found]
Policy: TypeAlias = Callable[[Head, Facts], tuple[int | None, tuple[bytes, ...]]]

_NOTHING: Final[Found] = (None, b"")


def hash_policy(messages: Sequence[RouteAction.HashPolicy], path: str) -> Policy | None:
    """The key of a request by these policies; None if there are none.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    methods = [(_method(message, f"{path}[{index}]"), message.terminal) for index, message in enumerate(messages)]
    return partial(_key, methods) if methods else None


def hashes_source(message: TcpProxy, path: str) -> bool:
    """Whether the client's address leads opaque connections to their endpoint."""
    policies: Sequence[TcpHashPolicy] = message.hash_policy
    if len(policies) > 1:
        raise ConfigError("at most one is supported", path=join(path, "hash_policy"))
    for policy in policies:
        one_of(policy, "policy_specifier", f"{join(path, 'hash_policy')}[0]")
    return bool(policies)


def hash_of_source(facts: Facts) -> int:
    """The key that the address of a client makes."""
    return xxh64(_host(facts.remote).encode())


def _key(methods: Sequence[tuple[Method, bool]], request: Head, facts: Facts) -> tuple[int | None, tuple[bytes, ...]]:
    key: int | None = None
    cookies: list[bytes] = []
    for method, terminal in methods:
        found, cookie = method(request, facts)
        if found is not None:
            # Turned by one bit, so that the same value given twice is not nothing.
            key = found if key is None else (key << 1 & MASK | key >> 63) ^ found
        if cookie:
            cookies.append(cookie)
        if terminal and key is not None:
            break
    return key, tuple(cookies)


def _method(message: RouteAction.HashPolicy, path: str) -> Method:
    which = one_of(message, "policy_specifier", path)
    here = join(path, which)
    match which:
        case "header":
            name = required(message.header.header_name, join(here, "header_name")).lower().encode()
            rewrite: Callable[[bytes], bytes] | None = None
            if message.header.HasField("regex_rewrite"):
                rewrite = patterns.substitution(message.header.regex_rewrite, join(here, "regex_rewrite"))
            return partial(_header, name, rewrite)
        case "cookie":
            return _cookie_method(message.cookie, here)
        case "connection_properties":
            return _source if message.connection_properties.source_ip else lambda _request, _facts: _NOTHING
        case _:
            parameter = required(message.query_parameter.name, join(here, "name")).encode()
            return partial(_parameter, parameter)


def _header(name: bytes, rewrite: Callable[[bytes], bytes] | None, request: Head, _: Facts) -> Found:
    match name:
        case b":authority" | b"host":
            values = [request.authority]
        case b":path":
            values = [request.path]
        case b":method":
            values = [request.method]
        case _ if not request.has(name):
            return _NOTHING
        case _:
            values = [value.strip(b" \t") for field, value in request.items() if field.lower() == name]
    if rewrite is not None:
        values = [rewrite(value) for value in values]
    return xxh64_of_all(sorted(values)), b""


def _source(_: Head, facts: Facts) -> Found:
    return hash_of_source(facts), b""


def _parameter(name: bytes, request: Head, _: Facts) -> Found:
    for part in request.path.partition(b"?")[2].split(b"&"):
        key, _equals, value = part.partition(b"=")
        if key == name:
            return xxh64(value), b""
    return _NOTHING


def _cookie_method(message: RouteAction.HashPolicy.Cookie, path: str) -> Method:
    name = required(message.name, join(path, "name"))
    lifetime = int(duration(message.ttl, join(path, "ttl"))) if message.HasField("ttl") else None
    parts = [(name, "name"), (message.path, "path")]
    for index, attribute in enumerate(message.attributes):
        parts += [(attribute.name, f"attributes[{index}].name"), (attribute.value, f"attributes[{index}].value")]
    for text, field in parts:
        if not COOKIE_TEXT.fullmatch(text):
            raise ConfigError("must be printable ASCII that a cookie can hold", path=join(path, field))
    attributes = "".join(
        f"; {attribute.name}={attribute.value}" if attribute.value else f"; {attribute.name}"
        for attribute in message.attributes
    )
    age = f"; Max-Age={lifetime}" if lifetime else ""
    suffix = f'"{age}{f"; Path={message.path}" if message.path else ""}{attributes}; HttpOnly'
    return partial(_cookie, name.encode(), None if lifetime is None else f'{name}="'.encode(), suffix.encode())


def _cookie(name: bytes, prefix: bytes | None, suffix: bytes, request: Head, facts: Facts) -> Found:
    """The value of a cookie; where there is none, and one is to be set, a value that the connection gives.

    The same for every request of the connection, so that requests that overtake each other agree.
    """
    value = _cookie_value(request.get(b"cookie") or b"", name)
    if value:
        return xxh64(value), b""
    if prefix is None:
        return _NOTHING
    made = b"%016x" % xxh64((facts.remote + facts.local).encode())
    return xxh64(made), prefix + made + suffix


def _cookie_value(cookies: bytes, name: bytes) -> bytes:
    for part in cookies.replace(b", ", b"; ").split(b";"):
        key, equals, value = part.strip(b" \t").partition(b"=")
        if equals and key == name:
            return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value
    return b""


def _host(address: str) -> str:
    return str(ip_address(address.rpartition(":")[0].strip("[]")))
