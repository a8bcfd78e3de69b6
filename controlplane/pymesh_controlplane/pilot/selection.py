"""Which policies hold for which workload: of its own namespace and of the root's, by labels or by Gateway. Pure.

Source: istio.io/docs/reference/config/security/authorization-policy (selector, targetRef), the same for
RequestAuthentication; Gateway API GEP-713 (policy attachment).
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from pymesh.resources.istio.authorization_policy import AuthorizationPolicy
from pymesh.resources.istio.request_authentication import RequestAuthentication
from pymesh.resources.resource import Resource

# Group and kind of what a policy may name as its target.
GATEWAY: Final = ("gateway.networking.k8s.io", "Gateway")
# Label by which a pod says of which Gateway it is.
GATEWAY_NAME: Final = "gateway.networking.k8s.io/gateway-name"

T = TypeVar("T", AuthorizationPolicy, RequestAuthentication)


def holding(
    namespace: str, labels: Mapping[str, str], policies: Mapping[str, Sequence[Resource[T]]], root_namespace: str
) -> tuple[Resource[T], ...]:
    """Those of `policies` (by namespace) that hold for a workload: first the root namespace's, then its own."""
    places = dict.fromkeys((root_namespace, namespace))
    return tuple(p for place in places for p in policies.get(place, ()) if selects(p, namespace, labels))


def selects(policy: Resource[T], namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether a policy of the root namespace or of `namespace` is for a workload of `namespace` with these labels."""
    spec = policy.value.spec
    if spec.targets:
        here = policy.key.namespace == namespace
        names = {target.name for target in spec.targets if (target.group, target.kind) == GATEWAY}
        return here and labels.get(GATEWAY_NAME) in names
    return spec.selector is None or spec.selector.match_labels.items() <= labels.items()
