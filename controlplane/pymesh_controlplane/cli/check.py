"""`pymesh check`: what stands in the way of an installation in a cluster, or what is wrong with one."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from pymesh_controlplane.cli import output
from pymesh_controlplane.cli.output import Format
from pymesh_controlplane.cli.target import Context, Kubeconfig, kubeconfigs

if TYPE_CHECKING:
    from pymesh_controlplane.cli.inspection import Finding

_STYLES: Final = {"error": "red", "warning": "yellow", "note": "dim"}
_Pre = Annotated[bool, typer.Option("--pre", help="Whether a mesh can be installed, instead of how one is.")]


def check(
    pre: _Pre = False,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
    output_format: Annotated[Format, typer.Option("-o", "--output", help="How to print.")] = Format.table,
) -> None:
    """Say what is wrong with the mesh in a cluster, or stands in the way of one, and what to do about each.

    The exit status is 1 if something is wrong; warnings and notes alone leave it 0.
    """
    # Here and not above: it takes half a second to load, and no other command needs it.
    from pymesh_controlplane.cli import survey
    from pymesh_controlplane.cli.cluster import Cluster
    from pymesh_controlplane.kube.api import Api
    from pymesh_controlplane.kube.kubeconfig import load

    with Api(load(kubeconfigs(kubeconfig, os.environ), context)) as api, Cluster(api) as cluster:
        looked = survey.before(api, cluster.paths) if pre else survey.installed(cluster, datetime.now(UTC))
        found = sorted(survey.as_far_as_possible(looked), key=lambda item: list(_STYLES).index(item.severity))
    if output_format is Format.table:
        _print(found, f"context {api.context}", "a mesh can be installed" if pre else "all is well")
    else:
        listed = [finding.as_json() for finding in found]
        output.show(Console(highlight=False), output_format, {"context": api.context, "findings": listed}, (), ())
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


def _print(found: "Sequence[Finding]", where: str, fine: str) -> None:
    """Each finding, and below it what to do; at the end the sum."""
    out = Console(highlight=False)
    for finding in found:
        mark = (finding.severity, _STYLES[finding.severity])
        out.print(Text.assemble(mark, f": {finding.about}: {finding.problem}"), soft_wrap=True)
        out.print(Text(f"  {finding.remedy}", "dim"), soft_wrap=True)
    out.print(Text(f"{where}: {summed_up([finding.severity for finding in found], fine)}"), soft_wrap=True)


def summed_up(severities: Sequence[str], fine: str) -> str:
    """What was found, in figures; `fine` is said only where nothing was."""
    counts = {name: severities.count(name) for name in _STYLES}
    found = [f"{number} {name}{'s' if number > 1 else ''}" for name, number in counts.items() if number]
    return ", ".join(found if counts["error"] else ["no errors", *found]) if found else fine
