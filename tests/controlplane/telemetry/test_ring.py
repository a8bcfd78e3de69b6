"""The last flights: found by request id and by time, and never too many."""

import pytest

from pymesh_controlplane.telemetry import ring
from pymesh_controlplane.telemetry.entries import Flight, Reader
from pymesh_controlplane.telemetry.ring import Ring
from tests.controlplane.telemetry.support import PAGE_PROXY, TO_V1, http_entry, tcp_entry


def flight(request_id: str = "r1", status: int = 200) -> Flight:
    return Reader().flight(http_entry(TO_V1, request_id=request_id, status=status), PAGE_PROXY)


def everything(_: Flight) -> bool:
    return True


def test_flights_of_one_request_and_the_newest() -> None:
    kept = Ring(1000)
    for number in range(10):
        kept.add(flight(f"r{number % 3}", 200 + number))
    assert [found.status for found in kept.of_request("r1")] == [201, 204, 207]
    assert [found.status for found in kept.last(2, everything)] == [208, 209]
    assert [found.number for found in kept.last(2, everything)] == [1008, 1009]
    assert [found.status for found in kept.last(2, lambda found: found.status < 205)] == [203, 204]
    assert [found.status for found in kept.last(100, everything, after=1006)] == [207, 208, 209]
    assert kept.of_request("r7") == []


def test_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "MAX_FLIGHTS", 5)
    kept = Ring(1)
    for number in range(8):
        kept.add(flight(f"r{number % 2}", 200 + number))
    assert (len(kept), kept.evicted) == (5, 3)
    assert [found.status for found in kept.of_request("r0")] == [204, 206]
    assert [found.status for found in kept.of_request("r1")] == [203, 205, 207]


def test_bytes_are_bounded_and_nothing_is_left_of_who_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "MAX_BYTES", 4_000)
    kept = Ring(1)
    for number in range(100):
        kept.add(flight(f"r{number}"))
        kept.add(Reader().flight(tcp_entry(TO_V1), PAGE_PROXY))
    assert 0 < kept.size <= 4_000
    assert sum(len(same) for same in kept._by_id.values()) <= len(kept) < 20
    assert kept.of_request("r0") == []
