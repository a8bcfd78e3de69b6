"""World → settings of all listeners of a proxy alike: what is reported, and how paths are normalized. Pure.

They are put into listeners that are otherwise complete, so that no filter chain is forgotten.
"""

from typing import NamedTuple

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from pymesh.xds import types
from pymesh_controlplane.pilot import reporting
from pymesh_controlplane.pilot.messages import network_filters, packed
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.reporting import Reporting

_Manager = http_connection_manager_pb2.HttpConnectionManager


class ListenerSettings(NamedTuple):
    """The same for all listeners of a proxy.

    Attributes:
        reports: access logs and traces.
        paths: MeshConfig's `pathNormalization.normalization`, with BASE for DEFAULT.
    """

    reports: Reporting
    paths: str


def listener_settings(node: Node, world: World) -> ListenerSettings:
    """The settings of the listeners of `node`."""
    written = world.mesh.path_normalization.normalization
    return ListenerSettings(reporting.reporting(node, world), "BASE" if written == "DEFAULT" else written)


def put_into(listener: listener_pb2.Listener, wanted: ListenerSettings) -> None:
    """Complete `listener`, whose connection managers are made for BASE."""
    if wanted.paths != "BASE":
        for item in network_filters(listener):
            if item.typed_config.type_url == types.HTTP_CONNECTION_MANAGER:
                manager = _Manager.FromString(item.typed_config.value)
                _normalize(manager, wanted.paths)
                item.typed_config.CopyFrom(packed(manager))
    reporting.put_into(listener, wanted.reports)


def _normalize(manager: _Manager, paths: str) -> None:
    """As in Istio, each of BASE, MERGE_SLASHES and DECODE_AND_MERGE_SLASHES does what the one before does, and more."""
    manager.normalize_path.value = paths != "NONE"
    manager.merge_slashes = paths in {"MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"}
    if paths == "DECODE_AND_MERGE_SLASHES":
        manager.path_with_escaped_slashes_action = _Manager.UNESCAPE_AND_FORWARD
