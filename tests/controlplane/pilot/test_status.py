"""What `pymesh status` is told."""

import json
from datetime import UTC, datetime

from pymesh.identity import Identity
from pymesh.xds.types import CLUSTER, LISTENER
from pymesh_controlplane.pilot import status
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.server import Connection, Origin
from pymesh_controlplane.pilot.session import PUSH_ORDER, DeltaRequest, Session, SotwRequest
from pymesh_controlplane.pilot.subscription import Resource
from tests.controlplane.pilot.serving import NODE_ID


def time_of(seconds: float) -> datetime:
    """The server's clock started at the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def connection(session: Session) -> Connection:
    """A sidecar."""
    node = Node(NODE_ID, "sidecar", ("10.244.0.7",), "reviews-v1-0", "default", user_agent="envoy")
    origin = Origin("10.244.0.7:4000", Identity("cluster.local", "default", "reviews"))
    return Connection(1, node, origin, session, 10.0)


def test_the_life_of_an_update_from_stale_over_nacked_to_synced() -> None:
    """With versions, times and the reason."""
    session = Session(delta=False)
    proxy = connection(session)

    def cds() -> dict[str, object]:
        (told,) = json.loads(json.dumps(status.syncz([proxy], time_of)))
        found: dict[str, object] = told["types"]["cds"]
        return found

    assert cds() == {"status": "NOT SENT"}
    session.request(SotwRequest(CLUSTER), 11.0)
    assert cds()["status"] == "STALE"
    assert cds()["last_sent"] is None
    empty = {type_url: {} for type_url in PUSH_ORDER}
    session.update({**empty, CLUSTER: {"a": Resource("a", "1")}}, 12.0)
    (response,) = session.responses(12.0)
    session.request(SotwRequest(CLUSTER, response.nonce), 12.5)
    assert cds() == {
        "status": "SYNCED",
        "version": response.version,
        "acked_version": response.version,
        "resources": 1,
        "last_sent": "1970-01-01T00:00:12.000+00:00",
        "last_ack": "1970-01-01T00:00:12.500+00:00",
        "last_nack": None,
        "error": "",
    }
    session.update({**empty, CLUSTER: {"a": Resource("a", "2")}}, 13.0)
    assert cds()["status"] == "STALE"
    (response,) = session.responses(13.0)
    assert cds()["status"] == "STALE"
    session.request(SotwRequest(CLUSTER, response.nonce, error="no such field"), 14.0)
    assert (cds()["status"], cds()["error"]) == ("NACKED", "no such field")
    assert cds()["last_nack"] == "1970-01-01T00:00:14.000+00:00"
    assert cds()["acked_version"] != cds()["version"]
    session.update({**empty, CLUSTER: {"a": Resource("a", "3")}}, 15.0)
    (response,) = session.responses(15.0)
    session.request(SotwRequest(CLUSTER, response.nonce), 16.0)
    assert (cds()["status"], cds()["error"]) == ("SYNCED", "")


def test_what_is_too_large_to_be_sent_is_named() -> None:
    session = Session(delta=True, most=1_000)
    session.request(DeltaRequest(CLUSTER), 11.0)
    session.update({CLUSTER: {"a": Resource("a", "1", b"x" * 1_000)}}, 12.0)
    (told,) = json.loads(json.dumps(status.syncz([connection(session)], time_of)))
    assert (told["types"]["cds"]["status"], told["types"]["cds"]["error"]) == ("NACKED", "too large to be sent: a")


def test_a_proxy_is_told_by_name_and_by_what_it_proved() -> None:
    """The same in both lists."""
    proxy = connection(Session(delta=True))
    (told,) = status.connections_of([proxy], time_of)
    assert told == {
        "proxy": "reviews-v1-0.default",
        "node": NODE_ID,
        "user_agent": "envoy",
        "address": "10.244.0.7:4000",
        "identity": "spiffe://cluster.local/ns/default/sa/reviews",
        "protocol": "delta",
        "connected_since": "1970-01-01T00:00:10.000+00:00",
    }
    (synced,) = status.syncz([proxy], time_of)
    assert isinstance(synced, dict)
    assert isinstance(told, dict)
    assert told.items() <= synced.items()


def test_before_the_first_world_there_is_nothing_to_tell() -> None:
    """Empty pages, no errors."""
    assert status.configz(None) == {"revision": "", "resources": [], "problems": []}
    assert status.registryz(None) == []
    assert LISTENER in PUSH_ORDER
