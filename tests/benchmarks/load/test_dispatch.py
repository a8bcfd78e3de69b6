"""Which request goes out when, and what its latency is: by a clock that the test turns."""

from benchmarks.load.answers import Answer
from benchmarks.load.dispatch import Dispatch
from benchmarks.load.failures import FailedError
from benchmarks.load.histogram import Histogram
from benchmarks.load.schedule import constant

MS = 1_000_000
SECOND = 1000 * MS
GOOD = Answer(200, 5, last=False)


class Line:
    """A connection that counts."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self) -> None:
        self.sent += 1

    def abort(self) -> None:
        raise AssertionError("nothing here ends a connection")


def dispatch(lines: list[Line], *, rate: float = 100.0, seconds: float = 1.0, warm_up: float = 0.0) -> Dispatch:
    made = Dispatch(
        constant(rate, warm_up + seconds),
        warm_up=round(warm_up * SECOND),
        lasting=round(seconds * SECOND),
        window=SECOND // 2,
        timeout=2 * SECOND,
        body_bytes=5,
    )
    for line in lines:
        made.ready(line)
    made.start(0)
    return made


def serve(run: Dispatch, lines: list[Line], answer_at: dict[int, int]) -> None:
    """Turn the clock: requests take 1 ms, but what arrives in a stall is answered at its end, in order."""
    now, pending, counts = 0, [], dict.fromkeys(lines, 0)
    while not run.done:
        run.release(now)
        for line in [line for line in lines if line.sent > counts[line]]:
            counts[line] += 1
            pending.append((answer_at.get(now // MS, now // MS + 1), line))
        for due, line in [each for each in pending if each[0] <= now // MS]:
            pending.remove((due, line))
            run.answered(line, GOOD, now)
            run.ready(line)
        now += MS


STALL = dict.fromkeys(range(200, 600), 600)


def test_a_stall_is_in_every_request_that_it_delayed() -> None:
    lines = [Line(), Line()]
    run = dispatch(lines)
    serve(run, lines, STALL)
    found = sum(run.windows, Histogram())
    assert found.count == 100
    assert found.quantile(0.5) <= 3 * MS
    # For 0.4 of a second nothing was answered, so 40 of 100 requests were due then, and waited for what was left of it.
    assert 140 * MS <= found.quantile(0.75) <= 190 * MS
    assert found.quantile(0.99) >= 390 * MS
    assert run.queued >= 38  # two were on their way
    # A generator that waits for an answer before it sends again sees the stall once for each of its connections.
    closed = Histogram(closed_loop(STALL, connections=2))
    assert closed.quantile(0.95) <= 3 * MS


def closed_loop(answer_at: dict[int, int], connections: int) -> list[int]:
    """What a generator measures that sends on each connection 20 ms after the last answer: the same rate, unstalled."""
    took = []
    for _ in range(connections):
        now = 0
        while now < 1000:
            answered = answer_at.get(now, now + 1)
            took.append((answered - now) * MS)
            now = answered + 19
    return took


def test_answers_are_counted_by_when_their_requests_were_due() -> None:
    lines = [Line()]
    run = dispatch(lines)
    serve(run, lines, {490: 600})
    assert [window.count for window in run.windows] == [50, 50]
    assert run.windows[0].most == 110 * MS
    assert run.windows[1].most >= 100 * MS  # due at 500, but the connection was busy until 600


def test_the_warm_up_is_sent_but_not_counted() -> None:
    lines = [Line()]
    run = dispatch(lines, warm_up=0.5)
    serve(run, lines, {100: 110})
    assert lines[0].sent == 150
    assert sum(window.count for window in run.windows) == run.late.count == 100
    assert run.statuses == {"200": 150}
    assert run.queued == 0


def test_late_is_what_the_generator_did_late_itself() -> None:
    run = dispatch([Line()], rate=10)
    run.release(0)
    run.release(107 * MS)  # due at 100, with every connection busy
    assert (run.late.least, run.late.most) == (0, 7 * MS)


def test_connections_take_turns() -> None:
    lines = [Line() for _ in range(5)]
    run = dispatch(lines)
    serve(run, lines, {})
    assert [line.sent for line in lines] == [20] * 5


def test_bad_answers_are_errors_and_have_no_latency() -> None:
    line = Line()
    run = dispatch([line], rate=3)
    for answer in (Answer(503, 5, last=False), Answer(200, 4, last=False), GOOD):
        assert run.next_due is not None
        run.release(run.next_due)
        run.answered(line, answer, run.next_due or SECOND)
        run.ready(line)
    assert run.failures.counts == {"status 503": 1, "body": 1}
    assert run.failures.examples["body"] == "4 bytes instead of 5"
    assert sum(window.count for window in run.windows) == 1
    assert run.done


def test_a_lost_connection_costs_the_request_on_it() -> None:
    busy, free = Line(), Line()
    run = dispatch([busy, free], rate=2)
    run.release(0)
    run.failed(busy, FailedError("reset", "by peer"))
    run.failed(free, FailedError("closed", "between requests"))
    assert run.failures.counts == {"reset": 1}
    run.release(SECOND // 2)
    assert free.sent == 0  # it is not used any more
    run.ready(new := Line())
    assert new.sent == 1


def test_answers_that_nobody_asked_for_are_errors() -> None:
    line = Line()
    run = dispatch([line])
    run.answered(line, GOOD, 5)
    assert run.failures.counts == {"protocol": 1}


def test_without_a_connection_a_request_fails_for_each_attempt() -> None:
    run = dispatch([], rate=2)
    run.unconnected(FailedError("refused", "nobody waits yet"))
    run.release(SECOND)
    run.unconnected(FailedError("refused", "by the kernel"))
    assert run.failures.counts == {"refused": 1}
    assert not run.done
    run.unconnected(FailedError("refused", "by the kernel"))
    assert run.done


def test_what_is_over_time_is_given_up() -> None:
    line = Line()
    run = dispatch([line], rate=4)
    run.release(SECOND)
    assert run.expire(2 * SECOND - 1) == []
    assert run.expire(2 * SECOND) == [line]
    assert run.failures.counts == {"timeout": 1}
    run.expire(5 * SECOND)
    assert run.failures.counts == {"timeout": 4}
    assert run.done
