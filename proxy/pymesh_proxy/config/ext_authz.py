"""envoy ExtAuthz → ExtAuthzFilter."""

from typing import Final

from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh.xds.filter_names import HTTP_EXT_AUTHZ
from pymesh_proxy.config import matchers, value_matchers
from pymesh_proxy.config.fields import grpc_cluster, one_of, positive
from pymesh_proxy.config.value_matchers import MetadataMatch
from pymesh_proxy.filters.authz import HeaderFilter
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.ext_authz import ExtAuthzFilter, ExtAuthzSettings

# Envoy's defaults: seconds, status.
_TIMEOUT: Final = 0.2
_STATUS_ON_ERROR: Final = 403
# Always shown, as in Envoy: without them no request could be told from another.
_ALWAYS_SHOWN: Final = frozenset({b":method", b":path", b":authority", b":scheme", b"authorization"})


def ext_authz(message: Message, path: str) -> HttpFilter:
    """The filter.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    assert isinstance(message, ExtAuthz)
    here = join(path, "grpc_service")
    one_of(message, "services", path)
    code = message.status_on_error.code or _STATUS_ON_ERROR
    if not 200 <= code <= 599:
        raise ConfigError(f"{code} is not the status of an answer", path=join(path, "status_on_error.code"))
    found = ExtAuthzFilter(
        ExtAuthzSettings(
            cluster=grpc_cluster(message.grpc_service, here, timed=True),
            timeout=positive(message.grpc_service, "timeout", _TIMEOUT, here),
            failure_mode_allow=message.failure_mode_allow,
            failure_mode_allow_header_add=message.failure_mode_allow_header_add,
            status_on_error=code,
            shown=_shown(message, path),
            authority=message.grpc_service.envoy_grpc.authority,
            enabled=_enabled(message, path),
            namespaces=tuple(message.metadata_context_namespaces),
        )
    )
    return HttpFilter(HTTP_EXT_AUTHZ, found.on_request, found.on_response, found.on_complete, found.connect)


def _enabled(message: ExtAuthz, path: str) -> MetadataMatch | None:
    if not message.HasField("filter_enabled_metadata"):
        return None
    return value_matchers.metadata(message.filter_enabled_metadata, join(path, "filter_enabled_metadata"))


def _shown(message: ExtAuthz, path: str) -> HeaderFilter | None:
    """Which request headers go to the service: those that are allowed, if any are named, and not disallowed."""
    allowed = _names(message.allowed_headers, join(path, "allowed_headers"))
    disallowed = _names(message.disallowed_headers, join(path, "disallowed_headers"))
    if not message.HasField("allowed_headers") and not message.HasField("disallowed_headers"):
        return None
    every = not message.HasField("allowed_headers")

    def shown(name: bytes) -> bool:
        if any(matches(name) for matches in disallowed):
            return False
        return every or name in _ALWAYS_SHOWN or any(matches(name) for matches in allowed)

    return shown


def _names(message: ListStringMatcher, path: str) -> tuple[matchers.ValueMatch, ...]:
    return tuple(
        matchers.string(pattern, f"{path}.patterns[{index}]") for index, pattern in enumerate(message.patterns)
    )
