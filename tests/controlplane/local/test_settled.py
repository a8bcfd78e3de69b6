"""When a mesh has caught up with itself."""

from typing import Any

from pymesh_controlplane.local.settled import unsettled

SLICE = {
    "kind": "EndpointSlice",
    "endpoints": [
        {"addresses": ["10.244.0.2"], "conditions": {"ready": True}},
        {"addresses": ["10.244.0.3"], "conditions": {"ready": False}},
    ],
}


def registry(*addresses: str) -> list[dict[str, Any]]:
    return [{"ports": [{"endpoints": [{"address": address} for address in addresses]}]}]


def proxy(status: str, revision: str = "2") -> dict[str, Any]:
    return {"proxy": "a.default", "revision": revision, "types": {"ClusterLoadAssignment": {"status": status}}}


def test_an_endpoint_that_pilot_has_not_read_is_waited_for() -> None:
    assert unsettled([SLICE], registry(), "2", []) == ["pilot has not read yet that 10.244.0.2 is ready"]
    assert unsettled([SLICE, {"kind": "Pod"}], registry("10.244.0.2"), "2", []) == []


def test_a_proxy_that_has_not_acknowledged_is_waited_for() -> None:
    known = registry("10.244.0.2")
    assert unsettled([SLICE], known, "2", [proxy("STALE")]) == [
        "a.default has not acknowledged its ClusterLoadAssignment yet"
    ]
    assert unsettled([SLICE], known, "2", [proxy("SYNCED"), proxy("NOT SENT"), proxy("NACKED")]) == []


def test_what_an_older_world_was_acknowledged_as_counts_for_nothing() -> None:
    assert unsettled([SLICE], registry("10.244.0.2"), "2", [proxy("SYNCED", "1")]) == [
        "a.default has not been told the newest yet"
    ]
