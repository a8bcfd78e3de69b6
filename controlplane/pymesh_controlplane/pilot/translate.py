"""World + node → everything that one proxy is to know. Pure and deterministic."""

from collections.abc import Mapping
from typing import TypeAlias

from google.protobuf.message import Message

from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node

# By type URL, then by resource name; both sorted.
Resources: TypeAlias = Mapping[str, Mapping[str, Message]]


def resources_for(node: Node, world: World) -> Resources:
    """All listeners, route configurations, clusters and endpoint assignments of `node`.

    The keys of the outer mapping are the four type URLs (always present), those of the inner one the names under which
    the proxy asks for them. The same node and world give byte-identical messages. Subset of what is needed never
    happens: every route configuration and endpoint assignment that a listener or a cluster here names is here too.
    """
    raise NotImplementedError
