"""What the MeshConfig says of paths holds for every connection manager of every listener."""

from collections.abc import Iterator

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from pymesh.xds import types
from pymesh.xds.check import check
from pymesh_controlplane.pilot.node import Node
from tests.controlplane.pilot.gateway_worlds import EDGE, HTTP, gateway, router, virtual
from tests.controlplane.pilot.worlds import BOOKINFO, mesh_config, resources_for, sidecar, world_of

KEEP, FORWARD = HttpConnectionManager.IMPLEMENTATION_SPECIFIC_DEFAULT, HttpConnectionManager.UNESCAPE_AND_FORWARD


def managers(node: Node, mesh: str) -> Iterator[HttpConnectionManager]:
    world = world_of(BOOKINFO + EDGE + gateway(HTTP) + virtual("['*']") + mesh)
    for listener in resources_for(node, world)[types.LISTENER].values():
        assert isinstance(listener, Listener)
        check(listener)
        for chain in (*listener.filter_chains, listener.default_filter_chain):
            for item in chain.filters:
                if item.typed_config.type_url == types.HTTP_CONNECTION_MANAGER:
                    yield HttpConnectionManager.FromString(item.typed_config.value)


@pytest.mark.parametrize("node", [sidecar(), router()], ids=["sidecar", "gateway"])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", (True, False, KEEP)),
        ("DEFAULT", (True, False, KEEP)),
        ("BASE", (True, False, KEEP)),
        ("NONE", (False, False, KEEP)),
        ("MERGE_SLASHES", (True, True, KEEP)),
        ("DECODE_AND_MERGE_SLASHES", (True, True, FORWARD)),
    ],
)
def test_every_manager_normalizes_as_the_mesh_says(node: Node, written: str, expected: tuple[bool, bool, int]) -> None:
    mesh = mesh_config(f"pathNormalization: {{normalization: {written}}}") if written else ""
    found = {
        (one.normalize_path.value, one.merge_slashes, one.path_with_escaped_slashes_action)
        for one in managers(node, mesh)
    }
    assert found == {expected}
