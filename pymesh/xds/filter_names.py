"""Envoy's names of filters, the same for who configures one and who is one; and what they tell those behind them.

Under its name a filter leaves what it has learned of a request in the dynamic metadata, an object by key.

Source: envoyproxy.io/docs/envoy/latest/configuration/{http/http_filters,listeners/network_filters} ("Dynamic Metadata")
"""

from typing import Final

HTTP_EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
HTTP_JWT_AUTHN: Final = "envoy.filters.http.jwt_authn"
HTTP_RBAC: Final = "envoy.filters.http.rbac"
NETWORK_EXT_AUTHZ: Final = "envoy.filters.network.ext_authz"
NETWORK_RBAC: Final = "envoy.filters.network.rbac"

# Of jwt_authn: the claims of the token that was verified, under the key that Istio has it write them to.
JWT_PAYLOAD: Final = "payload"
# Of rbac, behind its prefix: what shadow rules would have decided, and by which policy.
RBAC_SHADOW_RESULT: Final = "shadow_engine_result"
RBAC_SHADOW_POLICY: Final = "shadow_effective_policy_id"
