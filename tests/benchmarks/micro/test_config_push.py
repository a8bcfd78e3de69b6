"""The benchmark of a push: what it sends is taken, and its table is complete."""

import argparse
import asyncio

import pytest

from benchmarks.micro import config_push


@pytest.mark.parametrize("at_once", [False, True])
async def test_pushes_are_taken_and_told(at_once: bool, capsys: pytest.CaptureFixture[str]) -> None:
    given = argparse.Namespace(services=3, endpoints=2, routes=2, pushes=2, at_once=at_once)
    async with asyncio.timeout(30):
        await config_push.measure(given)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["stall", "ms", "slice", "ms", "total", "s", "CPU", "s", "MB"]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert all(len(row.split()) == 6 for row in rows)
