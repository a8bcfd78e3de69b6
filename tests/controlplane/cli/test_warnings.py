"""What `pymesh` warns of, as a person sees it."""

import pytest

from pymesh.errors import Position
from pymesh_controlplane.cli import main
from pymesh_controlplane.pilot.model import Problem, Severity


def test_a_warning_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    text = str(Problem(Severity.WARNING, "there is no service [shp]", "spec.host", Position("a.yaml", 5, 7)))
    main._warn(text)
    assert capsys.readouterr().err == f"{text}\n" == "a.yaml:5:7: spec.host: warning: there is no service [shp]\n"
