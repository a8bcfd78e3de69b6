"""`pymesh ca` over what one citadel, or several, say of themselves."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pymesh.errors import MeshError
from pymesh_controlplane.citadel.report import Holder, Report, RootFacts, Step
from pymesh_controlplane.cli import ca, target
from pymesh_controlplane.cli.main import app

NOW = datetime.now(UTC)
OLD, NEW = (RootFacts(letter * 64, f"CN={letter}", NOW + timedelta(days=3650)) for letter in "ab")
BEFORE = Report("self-signed", "/ca", None, None, "v1", (OLD,), OLD.ends, 0.0, ())


def holding(report: Report, *pods: str, trusts: str = "", leaf: RootFacts = OLD) -> Report:
    """`report` of a replica that these pods follow."""
    return replace(report, holders=tuple(Holder(pod, trusts or report.version, leaf.fingerprint) for pod in pods))


class Replicas:
    """What `pymesh ca` needs of a mesh: citadels that say `reports`, and note what they are asked to do."""

    def __init__(self, *reports: Report) -> None:
        self.reports = list(reports)
        self.taken: list[str] = []

    def authorities(self) -> list[Any]:
        return [report.as_json() for report in self.reports]

    def rotate(self, step: str) -> Any:
        self.taken.append(step)
        last_step = None if step == "retire" else Step(step)
        roots = {"distribute": (OLD, NEW), "sign": (NEW, OLD), "retire": (NEW,)}[step]
        leaf = OLD if step == "distribute" else NEW
        self.reports = [
            holding(
                replace(report, last_step=last_step, since=NOW if last_step else None, roots=roots, version=step),
                *(holder.pod for holder in report.holders),
                leaf=leaf,
            )
            for report in self.reports
        ]
        return self.reports[0].as_json()


def run(monkeypatch: pytest.MonkeyPatch, replicas: Replicas, *arguments: str) -> tuple[int, str, BaseException | None]:
    """Exit status, what was printed, and what was raised."""

    @contextmanager
    def opened(*_: str) -> Iterator[Replicas]:
        yield replicas

    monkeypatch.setattr(target, "opened", opened)
    monkeypatch.setattr(ca, "POLL", 0.0)
    last_step = CliRunner().invoke(app, ["ca", *arguments])
    return last_step.exit_code, last_step.output, last_step.exception


def test_status_puts_replicas_together(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Replicas(
        replace(holding(BEFORE, "a.default"), expected=("a.default", "b.default", "c.default")),
        holding(BEFORE, "b.default"),
    )
    _, printed, _ = run(monkeypatch, replicas, "status")
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert lines[0].startswith("authority: citadel's own, in /ca; what signs ends 20")
    assert lines[1].startswith(f"root {'a' * 16} signs, ends 20")
    assert lines[-3:] == [
        f"a.default current {'a' * 16}",
        f"b.default current {'a' * 16}",
        "c.default unknown - does not follow the control plane",
    ]
    _, printed, _ = run(monkeypatch, replicas, "status", "-o", "json")
    document = json.loads(printed)
    assert (document["replicas"], document["silent"], document["next"]) == (2, ["c.default"], "distribute")
    assert yaml.safe_load(run(monkeypatch, replicas, "status", "-o", "yaml")[1]) == document


@pytest.mark.parametrize(
    ("reports", "sentence"),
    [
        ([holding(replace(BEFORE, last_step=Step.DISTRIBUTE), "a.b", trusts="v0")], "sign would be too early: 1 of 1"),
        ([replace(BEFORE, last_step=Step.DISTRIBUTE, expected=("c.d",))], "no word from c.d"),
        ([replace(BEFORE, last_step=Step.DISTRIBUTE), BEFORE], "have not all read the last step"),
        ([holding(replace(BEFORE, last_step=Step.SIGN, roots=(NEW, OLD)), "a.b")], "retire would be too early: 1 of 1"),
        ([replace(BEFORE, problem="the CA cannot be read")], "distribute would be too early: the CA cannot be read"),
    ],
)
def test_a_step_that_is_too_early_is_refused_here(
    monkeypatch: pytest.MonkeyPatch, reports: Sequence[Report], sentence: str
) -> None:
    """Only here all replicas are known: each of them would have taken it."""
    replicas = Replicas(*reports)
    _, _, error = run(monkeypatch, replicas, "rotate")
    assert isinstance(error, MeshError)
    assert sentence in str(error)
    assert replicas.taken == []
    _, _, error = run(monkeypatch, replicas, "rotate", "--wait", "--timeout", "0")
    assert sentence in str(error)


def test_rotate_takes_one_step_and_with_wait_all_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Replicas(holding(BEFORE, "a.b"))
    _, printed, _ = run(monkeypatch, replicas, "rotate")
    assert replicas.taken == ["distribute"]
    assert printed.splitlines()[-1].startswith("next: pymesh ca rotate (sign)")
    _, printed, _ = run(monkeypatch, replicas, "rotate", "--wait")
    assert replicas.taken == ["distribute", "sign", "retire"]
    assert "retire: only the new root is trusted; the rotation is complete" in printed
    _, printed, _ = run(monkeypatch, Replicas(BEFORE), "rotate", "-o", "json")
    assert json.loads(printed)["step"] == "distribute"


def test_what_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Replicas()
    _, _, error = run(monkeypatch, replicas, "status")
    assert str(error).startswith("no control plane answers: see what pymesh status says")
    replicas.authorities = lambda: [{"kind": "another"}]  # type: ignore[method-assign]  # a citadel of another version
    _, _, error = run(monkeypatch, replicas, "status")
    assert "citadel's report cannot be read" in str(error)
