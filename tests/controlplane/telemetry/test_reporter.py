"""Who reports: what a node says is believed where it agrees with what was proved."""

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2

from pymesh_controlplane.telemetry.reporter import ForeignNodeError, reporter_of
from tests.controlplane.telemetry.support import PAGE, PAGE_ID, PAGE_NODE, REVIEWS_ID


def node(**metadata: Any) -> base_pb2.Node:
    message = base_pb2.Node(id=PAGE_NODE["id"])
    message.metadata.update({**PAGE_NODE["metadata"], **metadata})
    return message


def test_a_sidecar() -> None:
    reporter = reporter_of(node(), PAGE_ID)
    assert reporter == ("sidecar", "productpage-v1-0", PAGE, str(PAGE_ID))
    assert reporter_of(node(), None).principal == ""


@pytest.mark.parametrize(
    ("metadata", "identity"),
    [
        ({}, REVIEWS_ID),  # another account of the namespace
        ({}, type(PAGE_ID)("cluster.local", "elsewhere", "productpage")),
        ({"NAMESPACE": "elsewhere"}, PAGE_ID),
        ({"NAMESPACE": ""}, PAGE_ID),
        ({"SERVICE_ACCOUNT": "admin"}, PAGE_ID),
    ],
)
def test_a_node_that_says_it_is_another(metadata: dict[str, str], identity: Any) -> None:
    with pytest.raises(ForeignNodeError, match="has proved to be spiffe://"):
        reporter_of(node(**metadata), identity)


@pytest.mark.parametrize("node_id", ["", "me", "sidecar~1.2.3.4~x\x1b[2J.bookinfo~bookinfo.svc.cluster.local"])
def test_a_node_that_is_none_of_this_mesh(node_id: str) -> None:
    message = node()
    message.id = node_id
    with pytest.raises(ValueError, match="node id") as caught:
        reporter_of(message, PAGE_ID)
    assert str(caught.value).isprintable()


def test_metadata_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="WORKLOAD_NAME"):
        reporter_of(node(WORKLOAD_NAME="x" * 1000), PAGE_ID)
