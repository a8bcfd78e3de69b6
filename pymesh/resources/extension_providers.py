"""Who the mesh works with and is no part of it: `extensionProviders` of the MeshConfig.

Source: istio.io/docs/reference/config/istio.mesh.v1alpha1 (MeshConfig.ExtensionProvider), release 1.27.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from pymesh.errors import ConfigError
from pymesh.resources.fields import Block, Duration, NotYet, Port

Host = Annotated[str, Meta(min_length=1, description="the host of a service")]
# Statuses that Envoy can answer by itself (envoy.type.v3.StatusCode).
Status = Annotated[
    str,
    Meta(
        pattern=r"^(20[0-8]|226|30[0-578]|4(0\d|1[0-7]|2[1-46-9]|31)|50[0-8]|51[01])\Z",
        description='a status, as in "503"',
    ),
]

# Of somebody who decides about requests; it becomes a part of the names of rules, as in Istio.
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class OpenTelemetryProvider(Block, frozen=True):
    """A collector of traces that speaks OTLP over gRPC: `service` is its host, perhaps as `<namespace>/<host>`."""

    service: Host
    port: Port
    max_tag_length: NotYet = None
    http: NotYet = None
    grpc: NotYet = None
    resource_detectors: NotYet = None
    dynatrace_sampler: NotYet = None


class RequestBodyInCheck(Block, frozen=True):
    """How much of a request's body is shown to who decides about it."""

    max_request_bytes: Annotated[int, Meta(ge=1, le=2**31 - 1, description="a whole number, 1 or more")]
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class EnvoyExtAuthzGrpc(Block, frozen=True):
    """Somebody who decides about requests, asked by gRPC (envoy.service.auth.v3.Authorization).

    Attributes:
        service: its host, perhaps as `<namespace>/<host>`.
        fail_open: whether requests are let in while it does not answer; else `status_on_error`, 403 without it.
    """

    service: Host
    port: Port
    timeout: Duration | None = None
    fail_open: bool = False
    status_on_error: Status | None = None
    include_request_body_in_check: RequestBodyInCheck | None = None
    clear_route_cache: NotYet = None


class EnvoyExtAuthzHttp(Block, frozen=True):
    """The same, asked by an HTTP request that is like the one that it is about.

    Attributes:
        path_prefix: put before the path of the question.
        include_request_headers_in_check: which headers it is shown, with a wildcard at one end.
        include_additional_headers_in_check: headers that it gets besides.
        headers_to_upstream_on_allow, headers_to_downstream_on_allow, headers_to_downstream_on_deny: which headers of
            its answer go to whom.
    """

    service: Host
    port: Port
    timeout: Duration | None = None
    fail_open: bool = False
    status_on_error: Status | None = None
    include_request_body_in_check: RequestBodyInCheck | None = None
    clear_route_cache: NotYet = None
    path_prefix: str = ""
    include_request_headers_in_check: list[str] = []
    include_additional_headers_in_check: dict[str, str] = {}
    headers_to_upstream_on_allow: list[str] = []
    headers_to_downstream_on_deny: list[str] = []
    headers_to_downstream_on_allow: list[str] = []
    include_headers_in_check: NotYet = None


EnvoyExtAuthz: TypeAlias = EnvoyExtAuthzGrpc | EnvoyExtAuthzHttp
Provider: TypeAlias = OpenTelemetryProvider | EnvoyExtAuthz


class ExtensionProvider(Block, frozen=True):
    """Something outside the mesh that it works with, by the name under which the rest refers to it."""

    name: Annotated[str, Meta(min_length=1, description="a name")]
    opentelemetry: OpenTelemetryProvider | None = None
    envoy_ext_authz_http: EnvoyExtAuthzHttp | None = None
    envoy_ext_authz_grpc: EnvoyExtAuthzGrpc | None = None
    envoy_file_access_log: NotYet = None
    envoy_http_als: NotYet = None
    envoy_tcp_als: NotYet = None
    envoy_otel_als: NotYet = None
    zipkin: NotYet = None
    lightstep: NotYet = None
    datadog: NotYet = None
    stackdriver: NotYet = None
    skywalking: NotYet = None
    opencensus: NotYet = None
    prometheus: NotYet = None
    sds: NotYet = None

    @property
    def authorizer(self) -> EnvoyExtAuthz | None:
        """How it is asked about requests, if it can be."""
        return self.envoy_ext_authz_grpc or self.envoy_ext_authz_http


def problems(provider: ExtensionProvider) -> Iterator[ConfigError]:
    """What is wrong though every field of its own is right, with paths below the provider."""
    said = (provider.opentelemetry, provider.envoy_ext_authz_grpc, provider.envoy_ext_authz_http)
    if len([one for one in said if one is not None]) != 1:
        yield ConfigError("say what it is, by one of opentelemetry, envoyExtAuthzGrpc and envoyExtAuthzHttp")
    if provider.authorizer is not None and not _NAME.fullmatch(provider.name):
        sentence = "who decides about requests has a name of small letters, digits and '-', at most 63 characters"
        yield ConfigError(sentence, path="name")
    if provider.envoy_ext_authz_http is not None:
        yield from _http_problems(provider.envoy_ext_authz_http)


def _http_problems(settings: EnvoyExtAuthzHttp) -> Iterator[ConfigError]:
    if settings.path_prefix and not settings.path_prefix.startswith("/"):
        yield ConfigError("a path begins with '/'", path="envoyExtAuthzHttp.pathPrefix")
    for field, headers in (
        ("includeRequestHeadersInCheck", settings.include_request_headers_in_check),
        ("headersToUpstreamOnAllow", settings.headers_to_upstream_on_allow),
        ("headersToDownstreamOnDeny", settings.headers_to_downstream_on_deny),
        ("headersToDownstreamOnAllow", settings.headers_to_downstream_on_allow),
    ):
        for index, name in enumerate(headers):
            if name.strip("*") == "" or "*" in name[1:-1]:
                sentence = "name a header, with at most one '*', at its beginning or its end"
                yield ConfigError(sentence, path=f"envoyExtAuthzHttp.{field}[{index}]")
