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


@pytest.mark.parametrize(("traffic", "period"), [(True, loop_meter.PERIOD), (False, loop_meter.IDLE_PERIOD)])
async def test_without_traffic_it_looks_seldom(traffic: bool, period: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_meter, "monotonic", lambda: 100.0)
    meter = LoopMeter(asyncio.get_running_loop(), lambda: traffic)
    meter.start()
    meter.close()
    assert meter._due == 100.0 + period


async def test_the_longest_is_forgotten_after_a_minute(monkeypatch: object) -> None:
    meter = LoopMeter(asyncio.get_running_loop(), lambda: True)
    meter.occupied(0.5)
    assert meter.longest == 0.5
    for _ in range(2):
        assert meter.longest == 0.5
        meter._window_ends = 0.0
        meter._due = time.monotonic()
        meter._look()
        meter.close()
    assert meter.longest < 0.5
    found = samples(meter)
    assert found["pymesh_loop_slice_seconds_bucket0.5"] == found["pymesh_loop_slice_seconds_count"] == 1
    assert found["pymesh_loop_delay_seconds_count"] == 2, "a slice is not among what the timer saw"
    assert loop_meter.BUCKETS[4] == 0.005
