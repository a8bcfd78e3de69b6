"""Every kind with crafted mistakes: the whole text that a person gets, compared with `mistakes.txt`.

After a change that is meant: `python -m tests.controlplane.galley.test_mistakes` writes the file anew; read its diff.
"""

from pathlib import Path

import pytest

from pymesh.resources.parse import kinds
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local.judge import judge
from pymesh_controlplane.local.texts import Text
from pymesh_controlplane.pilot.model import Problem, Severity
from tests.controlplane.pilot.worlds import BOOKINFO

FOLDER = Path(__file__).with_name("mistakes")
GOLDEN = Path(__file__).with_name("mistakes.txt")
NO_KIND = "none"  # what is no resource of any kind


def problems(name: str) -> list[Problem]:
    """What is said of the mistakes in a file, next to a mesh that is right."""
    injection = InjectionConfig()
    running = judge([Text("bookinfo.yaml", "/", BOOKINFO)], "default", {}, injection)
    in_force = {item.resource.key: item for item in running.items}
    path = FOLDER / f"{name}.yaml"
    return list(judge([Text(path.name, "/", path.read_text())], "default", in_force, injection).problems)


def told() -> str:
    """The golden text: a line for each problem, file after file."""
    return "".join(f"{problem}\n" for name in [*kinds(), NO_KIND] for problem in problems(name))


def test_every_mistake_is_told_as_it_was() -> None:
    assert told().splitlines() == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize("kind", [*kinds(), NO_KIND])
def test_every_kind_has_mistakes_and_each_has_a_place_and_a_sentence(kind: str) -> None:
    found = problems(kind)
    assert [problem for problem in found if problem.severity is Severity.ERROR]
    for problem in found:
        if problem.resource or problem.severity is Severity.ERROR:
            assert problem.position is not None
            assert problem.position.file == f"{kind}.yaml"
            assert problem.position.line
            assert problem.position.column
        assert str(problem).isprintable()
        assert len(problem.sentence.split()) >= 3, problem


if __name__ == "__main__":
    GOLDEN.write_text(told())
