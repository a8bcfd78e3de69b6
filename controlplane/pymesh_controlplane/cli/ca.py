"""`pymesh ca`: the mesh's certificate authority, who trusts it, and how its root is replaced without an outage."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from pymesh.errors import MeshError
from pymesh_controlplane.citadel.report import Holder, Report, Step, hindrances, next_step
from pymesh_controlplane.cli import output, target
from pymesh_controlplane.cli.output import Format
from pymesh_controlplane.cli.progress import step as progress

app = typer.Typer(help="Show the mesh's certificate authority, and replace its root.", no_args_is_help=True)

# Seconds between two looks whether a step may be taken.
POLL: Final = 1.0
# Characters of a fingerprint that people are shown; programs get all 64.
SHORT: Final = 16

_Output = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

# What follows each step, for whoever has just taken it.
_THEN: Final = {
    Step.DISTRIBUTE: "a new root is made and on its way to everybody; the old one signs on",
    Step.SIGN: "the new root signs; everybody renews its certificate now, and the old root is trusted as well",
    Step.RETIRE: "only the new root is trusted; the rotation is complete",
}


@app.command()
def status(
    mesh: target.MeshName = "",
    context: target.Context = "",
    kubeconfig: target.Kubeconfig = "",
    output_format: _Output = Format.table,
) -> None:
    """Say which roots the mesh trusts, which one signs, who has which, and what the next step of a rotation waits for.

    On this machine or in a cluster.
    """
    with target.opened(mesh, context, kubeconfig) as found:
        reports = _reports(found)
    document = as_json(reports, datetime.now(UTC))
    if output_format is not Format.table:
        output.show(out, output_format, document, (), ())
        return
    for line in _lines(document):
        out.print(line, soft_wrap=True, markup=False)
    if document["workloads"]:
        out.print()
        output.table(out, ("WORKLOAD", "ROOTS", "CERTIFICATE OF", "PROBLEM"), _rows(document))


@app.command()
def rotate(  # noqa: PLR0917  a command has as many options as it has
    mesh: target.MeshName = "",
    context: target.Context = "",
    kubeconfig: target.Kubeconfig = "",
    wait: Annotated[bool, typer.Option("--wait", help="Take every step that is left, as soon as it may be.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a step, with --wait.")] = 600.0,
    output_format: _Output = Format.table,
) -> None:
    """Take the next step of replacing the mesh's root: distribute, sign, retire. One that is too early is refused.

    On this machine or in a cluster.
    """
    with target.opened(mesh, context, kubeconfig) as found:
        while True:
            reports = _reports(found)
            step = reports[0].next
            why = _until_it_may_be(found, step, timeout) if wait else _why_not(reports, step)
            if why:
                raise MeshError(f"{step} would be too early: " + "; ".join(why))
            after = Report.from_json(found.rotate(step))
            if output_format is Format.table:
                out.print(f"{step}: {_THEN[step]}", soft_wrap=True)
            if not wait or step is Step.RETIRE:
                break
    if output_format is not Format.table:
        output.show(out, output_format, after.as_json(), (), ())
    elif after.last_step is not None:
        out.print(f"next: pymesh ca rotate ({next_step(after.last_step)}); pymesh ca status says what it waits for")


def as_json(reports: Sequence[Report], now: datetime) -> dict[str, Any]:
    """What `pymesh ca status -o json` prints: the reports of all replicas, merged."""
    first = reports[0]
    document = first.as_json()
    holders: dict[str, Holder] = {holder.pod: holder for report in reports for holder in report.holders}
    document["workloads"] = [holders[pod].as_json() for pod in sorted(holders)]
    document["expected"] = sorted({pod for report in reports for pod in report.expected})
    document["silent"] = sorted(set(document["expected"]).difference(holders))
    document["replicas"] = len(reports)
    document["next"] = str(first.next)
    document["waitsFor"] = _why_not(reports, first.next, now)
    return document


def _why_not(reports: Sequence[Report], step: Step, now: datetime | None = None) -> list[str]:
    expected = {pod for report in reports for pod in report.expected}
    return hindrances(reports, step, now or datetime.now(UTC), expected=expected)


def _until_it_may_be(found: target.Mesh, step: Step, timeout: float) -> list[str]:
    """Wait until nothing hinders `step`; what still does after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with progress(err, f"waiting until {step} may be") as update:
        while why := _why_not(_reports(found), step):
            if time.monotonic() >= deadline:
                return why
            update(why[0])
            time.sleep(POLL)
    return []


def _reports(found: target.Mesh) -> list[Report]:
    reports = [Report.from_json(document) for document in found.authorities()]
    if not reports:
        raise MeshError("no control plane answers: see what pymesh status says, or in a cluster pymesh check")
    return reports


def _lines(document: dict[str, Any]) -> list[str]:
    kind = "citadel's own" if document["kind"] == "self-signed" else "brought along"
    lines = [f"authority: {kind}, in {document['place']}; what signs ends {_day(document['signerNotAfter'])}"]
    for number, root in enumerate(document["roots"]):
        what = "signs" if number == 0 else "is trusted"
        lines.append(f"root {root['fingerprint'][:SHORT]} {what}, ends {_day(root['notAfter'])}: {root['subject']}")
    if document["step"]:
        since = datetime.fromisoformat(document["since"])
        lines.append(f"rotation: {document['step']} since {since:%Y-%m-%d %H:%M:%S} UTC; next: {document['next']}")
        lines += [f"  waits: {why}" for why in document["waitsFor"]] or ["  nothing stands in its way"]
    elif document["problem"]:
        lines.append(f"problem: {document['problem']}")
    return lines


def _rows(document: dict[str, Any]) -> list[list[str]]:
    rows = [
        [
            item["pod"],
            "current" if item["trusts"] == document["version"] else "behind",
            item["certificateOf"][:SHORT] or "-",
            item["problem"],
        ]
        for item in document["workloads"]
    ]
    return rows + [[pod, "unknown", "-", "does not follow the control plane"] for pod in document["silent"]]


def _day(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d}"
