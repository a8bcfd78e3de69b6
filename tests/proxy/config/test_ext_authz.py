"""The ext_authz filter's configuration; what it does is compared with Envoy in tests/conformance."""

import pytest
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz

from pymesh.errors import ConfigError
from pymesh.xds.filter_names import HTTP_EXT_AUTHZ
from pymesh_proxy.config.ext_authz import ext_authz
from pymesh_proxy.filters.ext_authz import ExtAuthzFilter, ExtAuthzSettings
from tests.support.xds import message

SERVICE = "grpc_service: {envoy_grpc: {cluster_name: a}}"


def settings(text: str) -> ExtAuthzSettings:
    hook = ext_authz(message(ExtAuthz, text), "f").on_request
    owner = getattr(hook, "__self__")  # noqa: B009  of a bound method
    assert isinstance(owner, ExtAuthzFilter)
    return owner.settings


def test_defaults_are_envoys() -> None:
    assert settings(SERVICE) == ExtAuthzSettings("a", 0.2, False, False, 403, None)
    assert ext_authz(message(ExtAuthz, SERVICE), "f").name == HTTP_EXT_AUTHZ


def test_all_of_it() -> None:
    found = settings("""
        grpc_service: {envoy_grpc: {cluster_name: a, authority: b}, timeout: 1.5s}
        transport_api_version: V3
        failure_mode_allow: true
        failure_mode_allow_header_add: true
        status_on_error: {code: ServiceUnavailable}
        allowed_headers: {patterns: [{prefix: x-}, {exact: cookie}]}
        disallowed_headers: {patterns: [{exact: x-secret}]}
        metadata_context_namespaces: [jwt]
        filter_enabled_metadata: {filter: rbac, path: [{key: found}], value: {string_match: {prefix: yes-}}}
    """)
    assert found.namespaces == ("jwt",)
    assert found.enabled is not None
    assert found.enabled({"rbac": {"found": "yes-1"}})
    assert not found.enabled({"rbac": {"found": "no"}})
    assert (found.timeout, found.failure_mode_allow, found.failure_mode_allow_header_add) == (1.5, True, True)
    assert (found.status_on_error, found.authority) == (503, "b")
    assert found.shown is not None
    shown = {
        name for name in (b"x-a", b"x-secret", b"cookie", b"accept", b":path", b"authorization") if found.shown(name)
    }
    assert shown == {b"x-a", b"cookie", b":path", b"authorization"}
    only = settings(SERVICE + "\ndisallowed_headers: {patterns: [{exact: cookie}]}").shown
    assert only is not None
    assert only(b"accept")
    assert not only(b"cookie")


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("{}", "f", "one of these is required"),
        ("grpc_service: {}", "f.grpc_service", "one of these is required"),
        ("grpc_service: {envoy_grpc: {}}", "f.grpc_service.envoy_grpc.cluster_name", "is required"),
        ("grpc_service: {envoy_grpc: {cluster_name: a}, timeout: 0s}", "f.grpc_service.timeout", "above 0"),
        (SERVICE + "\nstatus_on_error: {code: Continue}", "f.status_on_error.code", "not the status of an answer"),
        (SERVICE + "\nallowed_headers: {patterns: [{exact: a}, {}]}", "f.allowed_headers.patterns[1]", "required"),
        (SERVICE + "\nwith_request_body: {max_request_bytes: 10}", "with_request_body", "not supported"),
        (SERVICE + "\nclear_route_cache: true", "clear_route_cache", "not supported"),
        ("http_service: {path_prefix: /}", "http_service", "not supported"),
    ],
)
def test_what_is_refused(text: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        ext_authz(message(ExtAuthz, text), "f")
    assert caught.value.path == path
