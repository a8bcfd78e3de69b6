"""What travels from the process that measured."""

import json
from dataclasses import replace

from benchmarks.load import text
from benchmarks.load.histogram import Histogram
from benchmarks.load.results import Churned, Held, Latencies, Streamed

MS = 1_000_000
LATENCIES = Latencies(
    target="http://127.0.0.1:1/",
    rate=10.0,
    connections=2,
    seconds=1.5,
    began=100.0,
    window=0.5,
    windows=(Histogram([1 * MS]), Histogram([2 * MS, 3 * MS]), Histogram([40 * MS])),
    late=Histogram([1000]),
    queued=3,
    reconnects=1,
    statuses={"200": 4},
    errors={"reset": 2},
    examples={"reset": "by peer"},
    cpu_seconds=0.5,
)
CHURNED = Churned("http://127.0.0.1:1/", 2, 1.0, Histogram([MS]), 1, {}, {}, 0.5)
STREAMED = Streamed("127.0.0.1:1", 2, 2.0, 3_000_000_000, 1_000_000_000, {}, {}, 0.5)
HELD = Held("http://127.0.0.1:1/", 2, 1, {"refused": 1}, {"refused": "by the kernel"})


def test_all_of_it_survives_json() -> None:
    assert Latencies.of(json.loads(json.dumps(LATENCIES.document()))) == LATENCIES
    assert Churned.of(json.loads(json.dumps(CHURNED.document()))) == CHURNED
    assert Streamed.of(json.loads(json.dumps(STREAMED.document()))) == STREAMED
    assert Held.of(json.loads(json.dumps(HELD.document()))) == HELD


def test_all_windows_together_and_those_within_a_time() -> None:
    assert LATENCIES.histogram == Histogram([1 * MS, 2 * MS, 3 * MS, 40 * MS])
    assert LATENCIES.between(100.5, 101.0) == Histogram([2 * MS, 3 * MS])
    assert LATENCIES.between(100.4, 101.1) == Histogram([2 * MS, 3 * MS])
    assert LATENCIES.between(0, 200) == LATENCIES.histogram
    assert LATENCIES.between(100.6, 100.9).count == 0


def test_the_schedule_is_kept_while_the_generator_s_own_lateness_is_small() -> None:
    assert LATENCIES.kept_schedule
    assert replace(LATENCIES, late=Histogram([4 * MS])).kept_schedule  # a tenth of what was measured
    assert not replace(LATENCIES, late=Histogram([5 * MS])).kept_schedule
    assert not replace(LATENCIES, windows=(Histogram([MS]),), late=Histogram([600_000])).kept_schedule


def test_words_for_people() -> None:
    said = "\n".join(text.latencies(replace(LATENCIES, late=Histogram([5 * MS]))))
    assert "4 answered, 3 waited" in said
    assert "error: 2 x reset: by peer" in said
    assert "not kept" in said
    assert "2.00 GB/s both directions" in "\n".join(text.streamed(STREAMED))
    assert "1 of 2 connections are there" in text.held(HELD)[0]
    assert "1 connections, 1/s, 1 took up" in text.churned(CHURNED)[1]
