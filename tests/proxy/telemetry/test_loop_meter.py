"""The meter of the loop's stalls."""

import asyncio
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pymesh_proxy.telemetry import loop_meter
from pymesh_proxy.telemetry.exposition import render
from pymesh_proxy.telemetry.loop_meter import LoopMeter
from tests.support.waiting import eventually


def samples(meter: LoopMeter) -> dict[str, float]:
    text = render([meter]).decode()
    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_stall_is_seen_and_counted() -> None:
    meter = LoopMeter(asyncio.get_running_loop(), lambda: True)
    meter.start()
    try:
        await eventually(lambda: samples(meter)["pymesh_loop_delay_seconds_count"] > 2, what="a few looks")
        time.sleep(0.06)
        await eventually(lambda: meter.longest > 0.04, what="the stall")
    finally:
        meter.close()
    found = samples(meter)
    assert found["pymesh_loop_delay_seconds_bucket+Inf"] > found["pymesh_loop_delay_seconds_bucket0.025"]
    assert found["pymesh_loop_delay_longest_seconds"] == meter.longest


async def test_what_the_thread_did_not_run_is_none_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = LoopMeter(asyncio.get_running_loop(), lambda: True)
    now, used = 100.0, 7.0
    monkeypatch.setattr(loop_meter, "monotonic", lambda: now)
    monkeypatch.setattr(loop_meter, "thread_time", lambda: used)
    try:
        meter.start()
        now, used = now + loop_meter.PERIOD + 0.080, used + 0.003
        meter._look()
        assert (meter.longest, meter.longest_cpu) == (pytest.approx(0.080), pytest.approx(0.003))
        now, used = now + loop_meter.PERIOD + 0.001, used + 0.011
        meter._look()
        assert meter.longest_cpu == pytest.approx(0.003), "what it did before the timer was due delayed nobody"
        now, used = now + loop_meter.PERIOD + 0.050, used + 0.006
        meter.occupied(0.0005, 0.0004)
        meter.occupied(0.040, 0.0046)
        meter._look()
        assert meter.longest_cpu == pytest.approx(0.0046), "what slices have told is not counted twice"
        found = samples(meter)
    finally:
        meter.close()
    assert found["pymesh_loop_delay_cpu_longest_seconds"] == pytest.approx(0.0046)
    assert found["pymesh_loop_delay_cpu_seconds_count"] == 5


@pytest.mark.parametrize(("traffic", "period"), [(True, loop_meter.PERIOD), (False, loop_meter.IDLE_PERIOD)])
async def test_without_traffic_it_looks_seldom(traffic: bool, period: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_meter, "monotonic", lambda: 100.0)
    meter = LoopMeter(asyncio.get_running_loop(), lambda: traffic)
    meter.start()
    meter.close()
    assert meter._due == 100.0 + period


async def test_the_longest_is_forgotten_after_a_minute(monkeypatch: object) -> None:
    meter = LoopMeter(asyncio.get_running_loop(), lambda: True)
    meter.occupied(0.5, 0.4)
    for _ in range(2):
        assert (meter.longest, meter.longest_cpu) == (0.5, 0.4)
        meter._window_ends = 0.0
        meter._due = time.monotonic()
        meter._look()
        meter.close()
    assert meter.longest < 0.5
    assert meter.longest_cpu < 0.4
    found = samples(meter)
    assert found["pymesh_loop_slice_seconds_bucket0.5"] == found["pymesh_loop_slice_seconds_count"] == 1
    assert found["pymesh_loop_delay_seconds_count"] == 2, "a slice is not among what the timer saw"
    assert loop_meter.BUCKETS[4] == 0.005
