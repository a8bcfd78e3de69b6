"""`pymesh graph`: who talks to whom, how often and how well."""

import enum
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console

from pymesh.errors import MeshError, printable
from pymesh.resources.fields import seconds
from pymesh_controlplane.cli import completion, output, target
from pymesh_controlplane.telemetry.graph import KEEP

HEADER: Final = ("FROM", "TO", "SERVICE", "PROTOCOL", "RATE", "ERRORS", "P50", "P99", "MTLS")

_Window = Annotated[str, typer.Option(help="How far back, as in 30s or 5m; five minutes are kept.")]
_Namespace = Annotated[
    str,
    typer.Option(
        "-n", "--namespace", help="Only from, to or within this namespace.", autocompletion=completion.namespaces
    ),
]

Edge = Mapping[str, Any]


class Format(enum.StrEnum):
    """How the graph is printed; dot is Graphviz' language."""

    table = "table"
    json = "json"
    yaml = "yaml"
    dot = "dot"


def graph(  # noqa: PLR0917  a command has as many options as it has
    window: _Window = "60s",
    mesh: target.MeshName = "",
    context: target.Context = "",
    kubeconfig: target.Kubeconfig = "",
    namespace: _Namespace = "",
    everywhere: target.Everywhere = False,
    output_format: Annotated[Format, typer.Option("-o", "--output", help="How to print.")] = Format.table,
) -> None:
    """Show who talks to whom: requests a second, errors, the time that half and 99 % of them took, mutual TLS.

    On this machine or in a cluster.
    """
    namespace = target.only(namespace, everywhere)
    query = {"window": _seconds(window)} | ({"namespace": namespace} if namespace else {})
    with target.opened(mesh, context, kubeconfig) as found:
        document: Mapping[str, Any] = found.telemetry("graph", query)
    out = Console(highlight=False)
    edges: list[Edge] = document["edges"]
    match output_format:
        case Format.json:
            out.out(json.dumps(document, indent=2), highlight=False)
        case Format.yaml:
            out.out(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False).rstrip(), highlight=False)
        case Format.dot:
            out.out(dot(edges), highlight=False)
        case Format.table:
            output.table(out, HEADER, rows(edges))
    for line in remarks(document):
        sys.stderr.write(f"{line}\n")


def _seconds(window: str) -> float:
    try:
        result = seconds(window)
    except ValueError:
        result = 0.0
    if result <= 0:
        raise MeshError(f"--window {window}: a duration, as in 30s or 5m")
    if result > KEEP:
        raise MeshError(f"--window {window}: the collector keeps the last {KEEP // 60} minutes")
    return result


def remarks(document: Mapping[str, Any]) -> list[str]:
    """What whoever reads the graph should know of it."""
    lines = []
    if not document["edges"]:
        lines.append(f"no traffic in the last {document['covered']:.0f} s; it is reported within a second or two")
    if document["omitted"]:
        lines.append(f"{document['omitted']} more edges, of the fewest requests, are not shown")
    if document["lost"]:
        lines.append(f"{document['lost']} reports were lost on their way: counts are that much too low")
    return lines


def rows(edges: Sequence[Edge]) -> list[list[str]]:
    """The table, a line for each edge."""
    return [
        [
            _party(edge["source"]),
            _party(edge["destination"]),
            _service(edge["destination"]),
            edge["protocol"],
            f"{edge['rate']:.1f}/s",
            _share(edge["errors"]),
            _duration(edge["p50_ms"]),
            _duration(edge["p99_ms"]),
            _share(edge["mtls"]),
        ]
        for edge in sorted(edges, key=lambda edge: (_party(edge["source"]), _party(edge["destination"])))
    ]


def dot(edges: Sequence[Edge]) -> str:
    """The graph in Graphviz' language: workloads and what passes between them; what fails is red.

    Source: https://graphviz.org/doc/info/lang.html (quoted strings).
    """
    lines = ["digraph mesh {", "  rankdir=LR;", "  node [shape=box];"]
    for edge in edges:
        label = f"{edge['rate']:.1f}/s"
        if edge["p99_ms"] is not None:
            label += f", p99 {_duration(edge['p99_ms'])}"
        if edge["errors"]:
            label += f", {_share(edge['errors'])} errors"
        color = ", color=red" if edge["errors"] else ""
        style = "" if edge["mtls"] == 1 else ", style=dashed"
        source, destination = _quoted(_node(edge["source"])), _quoted(_node(edge["destination"]))
        lines.append(f"  {source} -> {destination} [label={_quoted(label)}{color}{style}];")
    return "\n".join([*lines, "}"])


def _node(party: Mapping[str, str]) -> str:
    """A workload; one that is not known is told apart by the service that was asked for."""
    if party["workload"] == "unknown":
        return _service(party) if "service" in party else "unknown"
    return f"{party['workload']}.{party['namespace']}"


def _quoted(text: str) -> str:
    escaped = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _party(party: Mapping[str, str]) -> str:
    return "unknown" if party["workload"] == "unknown" else printable(f"{party['workload']}.{party['namespace']}")


def _service(destination: Mapping[str, str]) -> str:
    return printable(destination["service"].removesuffix(".svc.cluster.local"))


def _share(share: float) -> str:
    """A share in percent; a small one is not shown as none."""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{share * 100:.1f}".removesuffix(".0") + "%"


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.1f}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f}s"
