"""World + node → the filters that everything inbound passes first: who calls, and whether that is allowed. Pure.

They stand in front of every port of a sidecar, declared or not, and of every listener of a gateway.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from pymesh.resources.istio.authorization_policy import AuthorizationPolicy
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.pilot import authorization, request_authentication, selection
from pymesh_controlplane.pilot.authorization import Settings
from pymesh_controlplane.pilot.authorizers import authorizers
from pymesh_controlplane.pilot.filters import Before
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.request_authentication import Believed

T = TypeVar("T")


class Guards(NamedTuple):
    """The security policies that hold for a workload, and what they mean there."""

    believed: Believed
    policies: tuple[Resource[AuthorizationPolicy], ...]
    settings: Settings

    @property
    def name(self) -> tuple[bool, tuple[Key, ...], tuple[Key, ...]]:
        """The same for all workloads of a world for which the same holds, so that they can share what is made of it."""
        policies = tuple(policy.key for policy in self.policies)
        return self.settings.asks_about_connections, self.believed.names, policies


class SecurityPolicies:
    """The RequestAuthentications and AuthorizationPolicies of a world, by namespace."""

    def __init__(self, world: World) -> None:
        self._root = world.root_namespace
        self._key_sets = world.key_sets
        self._authentications = _by_namespace(world.request_authentications)
        self._policies = _by_namespace(world.authorization_policies)
        self._settings = {ours: settings(world, ours=ours) for ours in (True, False)}

    def guards(self, node: Node) -> Guards:
        """What holds for the workload of `node`: the app beside a sidecar, or the gateway itself."""
        authentications = selection.holding(node.namespace, node.labels, self._authentications, self._root)
        policies = selection.holding(node.namespace, node.labels, self._policies, self._root)
        believed = request_authentication.believed(authentications, self._key_sets)
        return Guards(believed, policies, self._settings[node.ours])


def settings(world: World, *, ours: bool) -> Settings:
    """What policies mean to a pymesh-proxy (`ours`), or to an Envoy."""
    return Settings(world.trust_domains, authorizers(world, ours=ours), asks_about_connections=not ours)


def before(guards: Guards) -> Before:
    """The filters in the order in which requests meet them: first authentication, then authorization."""
    found = authorization.filters(guards.policies, guards.settings)
    return found._replace(requests=(*request_authentication.filters(guards.believed), *found.requests))


def _by_namespace(policies: Sequence[Resource[T]]) -> Mapping[str, Sequence[Resource[T]]]:
    found: dict[str, list[Resource[T]]] = {}
    for policy in policies:
        found.setdefault(policy.key.namespace, []).append(policy)
    return found
