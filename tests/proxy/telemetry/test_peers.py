"""What is believed of a caller is read once, and no more of it is kept than there is room for. See test_workloads."""

import pytest

from pymesh.peer_metadata import Peer, header_of
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.telemetry import peers as peers_module
from pymesh_proxy.telemetry.peers import Peers
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts

IDENTITY = "spiffe://cluster.local/ns/shop/sa/reviews"


def met(peers: Peers, workload: str) -> Peer:
    value = header_of(Peer(workload, "shop"), "pod")
    parsed = parse_request(f"GET / HTTP/1.1\r\nhost: a\r\nx-envoy-peer-metadata: {value}\r\n\r\n".encode())
    assert parsed is not None
    record = RequestRecord(Facts("inbound", "a", "b", peer=IDENTITY), 0.0, 1.0)
    peers.meet(record, parsed[0])
    assert parsed[0].fields() == b"host: a\r\n"
    return record.source


def test_the_same_words_give_the_same_object() -> None:
    peers = Peers()
    assert met(peers, "a") is met(peers, "a")
    assert met(peers, "a").workload == "a"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "MAX_KNOWN", 3)
    peers = Peers()
    for number in range(20):
        assert met(peers, f"w{number}").workload == f"w{number}"
        assert len(peers._known) <= 3


@pytest.mark.parametrize("node_id", ["sidecar~1\r\nx: y", "é"])
def test_a_node_id_that_is_no_header_value_is_not_sent(node_id: str) -> None:
    peers = Peers()
    peers.introduce(Peer("w", "n"), pod="p", node_id=node_id, principal="", sidecar=True)
    assert peers.introduction(RequestRecord(Facts("outbound", "a", "b"), 0.0, 1.0)) == b""
