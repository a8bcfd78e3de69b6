"""`pymesh status`: what pilot has told its proxies, what they said to it, what it has refused, and who is away."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pymesh_controlplane.cli import completion, output, target
from pymesh_controlplane.cli.mesh import Pilot
from pymesh_controlplane.cli.output import Format

_Namespace = Annotated[
    str,
    typer.Option("-n", "--namespace", help="Only proxies of this namespace.", autocompletion=completion.namespaces),
]
_Output = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]


def status(  # noqa: PLR0917  a command has as many options as it has
    mesh: target.MeshName = "",
    context: target.Context = "",
    kubeconfig: target.Kubeconfig = "",
    namespace: _Namespace = "",
    everywhere: target.Everywhere = False,
    output_format: _Output = Format.table,
) -> None:
    """Say of each proxy whether it has taken the configuration that pilot has for it, and what pilot has refused.

    Also which of the mesh's own services is away although something relies on it, and what that means.

    On this machine or in a cluster.
    """
    namespace = target.only(namespace, everywhere)
    with target.opened(mesh, context, kubeconfig) as found:
        pilots = found.pilots()
    proxies, problems, away = merged(pilots, namespace), problems_of(pilots), away_of(pilots)
    header = ["PROXY", "KIND", *output.STATUS_TYPES, "PILOT", "ERROR"]
    rows = output.status_rows(proxies)
    if len(pilots) == 1:
        header.pop(-2)
        rows = [[*row[:-2], row[-1]] for row in rows]
    out = Console(highlight=False)
    output.show(out, output_format, {"proxies": proxies, "problems": problems, "away": away}, header, rows)
    if output_format is Format.table:
        for item in away:
            out.print(Text(str(item["text"]), style="red"), soft_wrap=True)
        for problem in problems:
            out.print(output.problem_line(problem), soft_wrap=True)


def merged(pilots: Iterable[Pilot], namespace: str = "") -> list[dict[str, Any]]:
    """What the replicas of pilot say of their proxies, with the `pilot` that each is connected to.

    A proxy is connected to one; for a moment another may still think so: the newer connection counts.
    """
    found: dict[str, dict[str, Any]] = {}
    for pilot in pilots:
        for proxy in pilot.proxies:
            there = found.get(proxy["node"])
            if there is None or str(there["connected_since"]) < str(proxy["connected_since"]):
                found[proxy["node"]] = {**proxy, "pilot": pilot.name}
    return [proxy for proxy in found.values() if namespace in {"", str(proxy["proxy"]).rpartition(".")[2]}]


def away_of(pilots: Iterable[Pilot]) -> list[Mapping[str, Any]]:
    """The mesh's own services that are away, each once: as the replica of pilot tells it that has known for longest."""
    found = [item for pilot in pilots for item in pilot.config.get("away", ())]
    found.sort(key=lambda item: str(item["since"]), reverse=True)
    return list({item["service"]: item for item in found}.values())


def problems_of(pilots: Sequence[Pilot]) -> list[Mapping[str, Any]]:
    """What the replicas of pilot have refused or find odd, each once: all of them read the same."""
    return list({problem["text"]: problem for pilot in pilots for problem in pilot.config["problems"]}.values())
