"""Who waits for the service: in order, told once, bounded."""

from pymesh_proxy.filters.standing import Mode, Standing
from pymesh_proxy.filters.waiting import MAX_WAITING, Refusal, Waiting
from pymesh_proxy.telemetry.record import RequestRecord
from tests.proxy.filters.test_slots import request, unheard


def crowd(count: int, told: list[tuple[int, Refusal | None]]) -> tuple[Waiting, list[RequestRecord]]:
    """So many who wait, each told by its number."""
    found, records = Waiting(unheard, Standing(Mode.CLOSED, Mode.CLOSED)), [request() for _ in range(count)]
    for number, record in enumerate(records):
        found.add(record, lambda refusal, number=number: told.append((number, refusal)))
    return found, records


def test_the_service_hears_of_each_at_once() -> None:
    asked: list[bool] = []
    Waiting(asked.append, Standing(Mode.CLOSED, Mode.CLOSED)).add(request(), unheard)
    assert asked == [True]


def test_the_first_ones_get_in_for_as_long_as_there_is_something() -> None:
    told: list[tuple[int, Refusal | None]] = []
    found, records = crowd(3, told)
    free = [records[0], records[1]]
    found.admit(lambda record: record in free)
    assert told == [(0, None), (1, None)]
    assert list(found.settles) == [records[2]]
    found.admit(lambda _: True)
    assert told[2:] == [(2, None)]
    assert len(found) == 0


def test_when_nobody_may_wait_any_longer_each_is_told_what_becomes_of_it() -> None:
    told: list[tuple[int, Refusal | None]] = []
    found, records = crowd(2, told)
    found.decide(lambda record: Refusal.AWAY if record is records[0] else None)
    assert told == [(0, Refusal.AWAY), (1, None)]
    assert records[0] not in found


def test_who_has_left_is_told_nothing() -> None:
    told: list[tuple[int, Refusal | None]] = []
    found, records = crowd(2, told)
    assert found.leave(records[0]) is not None
    assert found.leave(records[0]) is None
    assert records[1] in found
    found.admit(lambda _: True)
    assert told == [(1, None)]


def test_those_who_wait_are_bounded() -> None:
    found, _ = crowd(MAX_WAITING - 1, [])
    assert found.refusal() is None
    found.add(request(), unheard)
    assert found.refusal() is Refusal.LIMIT
    assert found.refused == 1
