"""World → what all listeners of a proxy have in common: what is reported, and what is made of paths. Pure.

Both are put into listeners that are otherwise complete, so that no filter chain is forgotten.
"""

from collections.abc import Iterator
from typing import NamedTuple

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from pymesh.xds import types
from pymesh_controlplane.pilot import reporting
from pymesh_controlplane.pilot.messages import packed
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.reporting import Reporting

_Manager = http_connection_manager_pb2.HttpConnectionManager


class Common(NamedTuple):
    """What all listeners of a proxy have in common; `paths` is MeshConfig's `pathNormalization.normalization`."""

    reports: Reporting
    paths: str


def common(node: Node, world: World) -> Common:
    """What the listeners of `node` have in common."""
    written = world.mesh.path_normalization.normalization
    return Common(reporting.reporting(node, world), "BASE" if written == "DEFAULT" else written)


def put_into(listener: listener_pb2.Listener, wanted: Common) -> None:
    """Complete `listener`, whose connection managers are made for BASE."""
    if wanted.paths != "BASE":
        for item in _request_filters(listener):
            manager = _Manager.FromString(item.typed_config.value)
            _normalize(manager, wanted.paths)
            item.typed_config.CopyFrom(packed(manager))
    reporting.put_into(listener, wanted.reports)


def _request_filters(listener: listener_pb2.Listener) -> Iterator[listener_components_pb2.Filter]:
    for chain in (*listener.filter_chains, listener.default_filter_chain):
        for item in chain.filters:
            if item.typed_config.type_url == types.HTTP_CONNECTION_MANAGER:
                yield item


def _normalize(manager: _Manager, paths: str) -> None:
    """As Istio: each of the three does what the one before it does, and more."""
    manager.normalize_path.value = paths != "NONE"
    manager.merge_slashes = paths in {"MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"}
    if paths == "DECODE_AND_MERGE_SLASHES":
        manager.path_with_escaped_slashes_action = _Manager.UNESCAPE_AND_FORWARD
