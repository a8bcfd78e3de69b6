"""What a shift tells programs."""

import json

import pytest

from pymesh_controlplane.cli.output import Format
from pymesh_controlplane.cli.rollout import Seen
from pymesh_controlplane.cli.shift import Told
from pymesh_controlplane.cli.shifting import Shift

PLAN = Shift("shop.default.svc.cluster.local", "v2", {}, None, (), ())


def test_a_dry_run_has_the_steps_that_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    Told(PLAN, Format.json).end("dry run", "nothing was changed", [Seen(50, 5.0, {}), Seen(100, 5.0, {})])
    document = json.loads(capsys.readouterr().out)
    assert document["steps"] == [
        {"share": 50, "seconds": 5.0, "subsets": {}},
        {"share": 100, "seconds": 5.0, "subsets": {}},
    ]


def test_a_shift_has_the_steps_that_were_seen(capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(PLAN, Format.json)
    told.step(Seen(50, 7, {}))
    told.end("went back", "interrupted")
    assert json.loads(capsys.readouterr().out)["steps"] == [{"share": 50, "seconds": 7, "subsets": {}}]
