"""External authorizers: `extensionProviders` of the MeshConfig → Envoy's ext_authz filters. Pure.

The filter asks only about what the rules of a CUSTOM policy have matched. They are the shadow rules of an RBAC filter
in front of it, which leaves the name of the matching rule in the dynamic metadata.

Source: istio.io/docs/reference/config/istio.mesh.v1alpha1 (EnvoyExternalAuthorization...Provider); Istio's translation.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_ext_authz_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2
from envoy.type.v3 import http_status_pb2

from pymesh import names
from pymesh.resources.extension_providers import (
    EnvoyExtAuthz,
    EnvoyExtAuthzGrpc,
    EnvoyExtAuthzHttp,
    RequestBodyInCheck,
)
from pymesh.resources.fields import seconds
from pymesh.xds.filter_names import HTTP_EXT_AUTHZ, NETWORK_EXT_AUTHZ, RBAC_SHADOW_POLICY
from pymesh_controlplane.pilot import hosts
from pymesh_controlplane.pilot.messages import duration, grpc_service, packed, with_wildcard
from pymesh_controlplane.pilot.model import World

# Seconds for an answer, where the provider does not say; Istio's.
TIMEOUT: Final = 600.0
STAT_PREFIX: Final = "tcp."

_Http = ext_authz_pb2.ExtAuthz


class Authorizer(NamedTuple):
    """An authorizer that can be asked: its settings, the service's host, and the cluster that leads there."""

    settings: EnvoyExtAuthz
    host: str
    cluster: str

    @property
    def grpc(self) -> bool:
        """Whether it is asked by gRPC, and so about connections, too."""
        return isinstance(self.settings, EnvoyExtAuthzGrpc)

    @property
    def by_envoy_only(self) -> bool:
        """Whether it needs what pymesh-proxy does not do: to be asked by HTTP, or to see request bodies."""
        return not self.grpc or self.settings.include_request_body_in_check is not None


def authorizers(world: World, *, ours: bool) -> dict[str, Authorizer]:
    """The providers that a pymesh-proxy (`ours`) or an Envoy can ask, by name: those whose service exists."""
    found: dict[str, Authorizer] = {}
    for provider in world.mesh.extension_providers:
        settings = provider.authorizer
        if settings is None:
            continue
        host = hosts.of_provider(settings, world)
        service = world.services.get(host)
        if service is not None and service.port(settings.port) is not None:
            found[provider.name] = Authorizer(settings, host, names.outbound_cluster(settings.port, host))
    return {name: one for name, one in found.items() if not (ours and one.by_envoy_only)}


def ask_about_requests(
    authorizer: Authorizer, rbac: str, prefix: str, rules: str
) -> http_connection_manager_pb2.HttpFilter:
    """The filter that asks about requests for which `rbac` has noted a rule whose name begins with `rules`."""
    settings = authorizer.settings
    config = _Http(
        transport_api_version=config_source_pb2.ApiVersion.V3,
        failure_mode_allow=settings.fail_open,
        filter_enabled_metadata=_noted(rbac, prefix, rules),
    )
    if settings.status_on_error is not None:
        config.status_on_error.CopyFrom(http_status_pb2.HttpStatus(code=int(settings.status_on_error)))  # type: ignore[arg-type]  # an enumeration's number
    if settings.include_request_body_in_check is not None:
        config.with_request_body.CopyFrom(_body(settings.include_request_body_in_check))
    if isinstance(settings, EnvoyExtAuthzGrpc):
        config.grpc_service.CopyFrom(_grpc(authorizer))
    else:
        config.http_service.CopyFrom(_http(authorizer, settings))
        if settings.include_request_headers_in_check:
            config.allowed_headers.CopyFrom(_headers(settings.include_request_headers_in_check))
    return http_connection_manager_pb2.HttpFilter(name=HTTP_EXT_AUTHZ, typed_config=packed(config))


def ask_about_connections(authorizer: Authorizer, rbac: str, prefix: str, rules: str) -> listener_components_pb2.Filter:
    """The same for connections of opaque bytes; the provider speaks gRPC."""
    config = network_ext_authz_pb2.ExtAuthz(
        stat_prefix=STAT_PREFIX,
        transport_api_version=config_source_pb2.ApiVersion.V3,
        failure_mode_allow=authorizer.settings.fail_open,
        grpc_service=_grpc(authorizer),
        filter_enabled_metadata=_noted(rbac, prefix, rules),
    )
    return listener_components_pb2.Filter(name=NETWORK_EXT_AUTHZ, typed_config=packed(config))


def _noted(rbac: str, prefix: str, rules: str) -> metadata_pb2.MetadataMatcher:
    return metadata_pb2.MetadataMatcher(
        filter=rbac,
        path=[metadata_pb2.MetadataMatcher.PathSegment(key=prefix + RBAC_SHADOW_POLICY)],
        value=value_pb2.ValueMatcher(string_match=string_pb2.StringMatcher(prefix=rules)),
    )


def _timeout(authorizer: Authorizer) -> float:
    return seconds(authorizer.settings.timeout) if authorizer.settings.timeout is not None else TIMEOUT


def _grpc(authorizer: Authorizer) -> grpc_service_pb2.GrpcService:
    return grpc_service(authorizer.cluster, authorizer.host, _timeout(authorizer))


def _http(authorizer: Authorizer, settings: EnvoyExtAuthzHttp) -> ext_authz_pb2.HttpService:
    service = ext_authz_pb2.HttpService(path_prefix=settings.path_prefix)
    service.server_uri.uri = f"http://{authorizer.host}"
    service.server_uri.cluster = authorizer.cluster
    service.server_uri.timeout.CopyFrom(duration(_timeout(authorizer)))
    added: Mapping[str, str] = settings.include_additional_headers_in_check
    for name in sorted(added):
        service.authorization_request.headers_to_add.append(base_pb2.HeaderValue(key=name, value=added[name]))
    answer = service.authorization_response
    for field, wanted in (
        (answer.allowed_upstream_headers, settings.headers_to_upstream_on_allow),
        (answer.allowed_client_headers, settings.headers_to_downstream_on_deny),
        (answer.allowed_client_headers_on_success, settings.headers_to_downstream_on_allow),
    ):
        if wanted:
            field.CopyFrom(_headers(wanted))
    return service


def _headers(written: Iterable[str]) -> string_pb2.ListStringMatcher:
    """Names of headers, with a wildcard at one end."""
    return string_pb2.ListStringMatcher(patterns=[with_wildcard(name, ignore_case=True) for name in written])


def _body(wanted: RequestBodyInCheck) -> ext_authz_pb2.BufferSettings:
    return ext_authz_pb2.BufferSettings(
        max_request_bytes=wanted.max_request_bytes,
        allow_partial_message=wanted.allow_partial_message,
        pack_as_bytes=wanted.pack_as_bytes,
    )
