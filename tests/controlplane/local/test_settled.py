"""When a mesh has caught up with itself."""

from typing import Any

from pymesh.resources.resource import Key
from pymesh_controlplane.local.settled import unread, untold

ROUTE = Key("VirtualService", "default", "hello")
SHOWN = {ROUTE: "d2"}


def config(digest: str = "", *problems: dict[str, str], file: str = "applied/virtualservice-default.hello.json") -> Any:
    there = {**ROUTE._asdict(), "digest": digest, "position": f"/var/lib/pymesh/config/{file}:1:1"}
    return {"revision": "2", "resources": [there] if digest else [], "problems": list(problems)}


def proxy(status: str = "SYNCED", revision: str = "2") -> dict[str, Any]:
    return {"proxy": "a.default", "revision": revision, "types": {"eds": {"status": status}}}


def test_what_has_not_been_read_as_it_is_now_is_waited_for() -> None:
    late = ["pilot has not read VirtualService default/hello yet, as it is now"]
    assert unread("pilot", SHOWN, config()) == late
    assert unread("pilot", SHOWN, config("d1")) == late
    assert unread("pilot", SHOWN, config("d2")) == []


def test_what_was_refused_was_read() -> None:
    refused = {"resource": str(ROUTE), "severity": "error"}
    assert unread("pilot", SHOWN, config("d1", refused)) == []
    assert unread("pilot", SHOWN, config("", refused)) == []
    assert unread("pilot", SHOWN, config("d1", {**refused, "severity": "warning"})) != []


def test_what_was_deleted_is_waited_for_and_what_somebody_else_has_put_there_is_not() -> None:
    assert unread("pilot", {}, config("d1")) == ["pilot has not read yet that VirtualService default/hello is gone"]
    assert unread("pilot", {}, config("d1", file="applied/mine.yaml")) == []


def test_a_proxy_that_has_not_acknowledged_is_waited_for() -> None:
    assert untold("2", [], [proxy("STALE")]) == ["a.default has not acknowledged its eds yet"]
    for status in ("SYNCED", "NOT SENT", "NACKED"):
        assert untold("2", ["a.default"], [proxy(status)]) == []


def test_what_an_older_world_was_acknowledged_as_counts_for_nothing() -> None:
    assert untold("2", [], [proxy(revision="1")]) == ["a.default has not been told the newest yet"]


def test_a_proxy_that_is_not_connected_is_waited_for() -> None:
    assert untold("2", ["b.default"], [proxy()]) == ["b.default is not connected to pilot"]
