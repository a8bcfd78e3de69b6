"""World + node → what everything that comes in passes first: who may call. Pure.

It stands in front of every port of a sidecar, declared or not, and of every listener of a gateway.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pymesh.names import USER_AGENT
from pymesh.resources.authorization import AuthorizationPolicy
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.pilot import authorization
from pymesh_controlplane.pilot.authorization import Settings
from pymesh_controlplane.pilot.authorizers import authorizers
from pymesh_controlplane.pilot.filters import Before
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node


class Guards(NamedTuple):
    """What holds for a workload: the same for workloads that are alike in it."""

    policies: tuple[Resource[AuthorizationPolicy], ...]
    settings: Settings

    @property
    def name(self) -> tuple[bool, tuple[Key, ...]]:
        """By which it is told apart from what holds for others in the same world."""
        return self.settings.asks_about_connections, tuple(policy.key for policy in self.policies)


class Judge:
    """All policies of a world, by namespace."""

    def __init__(self, world: World) -> None:
        self._root = world.root_namespace
        self._policies: Mapping[str, Sequence[Resource[AuthorizationPolicy]]] = _by_namespace(
            world.authorization_policies
        )
        self._settings = {ours: settings(world, ours=ours) for ours in (True, False)}

    def guards(self, node: Node) -> Guards:
        """What holds for the workload beside which `node` stands, or which it is."""
        policies = authorization.holding(node.namespace, node.labels, self._policies, self._root)
        return Guards(policies, self._settings[node.user_agent == USER_AGENT])


def settings(world: World, *, ours: bool) -> Settings:
    """What policies mean to a pymesh-proxy (`ours`), or to an Envoy."""
    domains = tuple(dict.fromkeys((world.trust_domain, *world.mesh.trust_domain_aliases)))
    return Settings(domains, authorizers(world), asks_about_connections=not ours)


def before(guards: Guards) -> Before:
    """The filters, in the order in which they are met."""
    return authorization.filters(guards.policies, guards.settings)


def _by_namespace(
    policies: Sequence[Resource[AuthorizationPolicy]],
) -> dict[str, list[Resource[AuthorizationPolicy]]]:
    found: dict[str, list[Resource[AuthorizationPolicy]]] = {}
    for policy in policies:
        found.setdefault(policy.key.namespace, []).append(policy)
    return found
