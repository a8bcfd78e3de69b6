"""Worlds with security policies, as manifests, and what becomes of them in front of a workload."""

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)

from pymesh.xds import types
from tests.controlplane.pilot.worlds import BOOKINFO, mesh_config, resources_for, service, sidecar, world_of
from tests.support.tokens import ec_key, jwks

REVIEWS = {"pod": "reviews-v1", "ip": "10.244.0.11"}
OPA = service("opa", "[{name: grpc, port: 9191}, {name: http, port: 80}]", ip="10.96.0.77")
ASKED = mesh_config("""
trustDomainAliases: [old]
extensionProviders:
- name: opa
  envoyExtAuthzGrpc: {service: opa.default.svc.cluster.local, port: 9191, timeout: 0.5s, failOpen: true}
- name: web
  envoyExtAuthzHttp:
    service: opa.default.svc.cluster.local
    port: 80
    pathPrefix: /check
    statusOnError: "503"
    includeRequestHeadersInCheck: [cookie, "x-a-*"]
    includeAdditionalHeadersInCheck: {x-who: pymesh}
    headersToUpstreamOnAllow: [x-user]
    headersToDownstreamOnDeny: ["*-reason"]
    includeRequestBodyInCheck: {maxRequestBytes: 100, allowPartialMessage: true}
- {name: gone, envoyExtAuthzGrpc: {service: gone.default.svc.cluster.local, port: 1}}
""")
KEYS = jwks(ec_key().public(kid="one", use="sig"), {"kty": "new"})
FETCHED = "{issuer: 'https://b.test', jwksUri: 'https://b.test/keys'}"

FULL = f"""{{issuer: us, audiences: [a, b], jwks: '{KEYS}',
  fromHeaders: [{{name: x-jwt, prefix: "JWT "}}, {{name: y}}],
  fromParams: [t], fromCookies: [c], outputPayloadToHeader: x-payload, forwardOriginalToken: true, timeout: 3s,
  outputClaimToHeaders: [{{header: x-sub, claim: sub}}], spaceDelimitedClaims: [roles, scope]}}"""


def policy(name: str, spec: str, namespace: str = "default", dry: str = "") -> str:
    """An AuthorizationPolicy; `dry` is its annotation."""
    annotations = f", annotations: {{istio.io/dry-run: '{dry}'}}" if dry else ""
    return f"""
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}{annotations}}}
spec: {spec}
"""


def inbound(text: str, **node: object) -> Listener:
    """The inbound listener of reviews, or of another sidecar."""
    listener = resources_for(sidecar(**{**REVIEWS, **node}), world_of(BOOKINFO + text))[types.LISTENER][
        "virtualInbound"
    ]
    assert isinstance(listener, Listener)
    return listener


def before_router(listener: Listener) -> list[HttpFilter]:
    """What requests pass before the router, which is the same in every chain."""
    found = []
    for chain in (*listener.filter_chains, listener.default_filter_chain):
        box = chain.filters[-1].typed_config if chain.filters else None
        if box is not None and box.type_url == types.HTTP_CONNECTION_MANAGER:
            found.append(list(HttpConnectionManager.FromString(box.value).http_filters)[:-1])
    assert found
    assert all(filters == found[0] for filters in found)
    return found[0]


def authentication(name: str, spec: str, namespace: str = "default") -> str:
    """A RequestAuthentication."""
    return f"""
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""
