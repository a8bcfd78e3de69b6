"""`pymesh requests` and `pymesh journey`: what became of single requests."""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from pymesh.errors import MeshError, printable
from pymesh_controlplane.cli import completion, output, records, target
from pymesh_controlplane.cli import journey as journeys
from pymesh_controlplane.cli.output import Format

# Seconds between two looks for newer requests.
POLL: Final = 0.5
_STATUS: Final = re.compile(r"0|[0-9]{3}|[0-9][xX]{2}")
HEADER: Final = ("TIME", "FROM", "TO", "REQUEST", "STATUS", "MS", "MTLS", "REQUEST ID")

_Namespace = Annotated[
    str,
    typer.Option(
        "-n", "--namespace", help="Only from, to or within this namespace.", autocompletion=completion.namespaces
    ),
]
_Output = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]
_Last = Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest of them.")]
_To = Annotated[str, typer.Option("--to", help="Only to this service, app or workload, as in reviews or reviews-v2.")]
_From = Annotated[str, typer.Option("--from", help="Only from this app or workload.")]
_Status = Annotated[str, typer.Option(help="Only with this status, as in 503 or 5xx; 0 is no answer at all.")]
_Follow = Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")]
_Wait = Annotated[bool, typer.Option("--wait", help="Until there is one: requests are reported after a second or two.")]
_Timeout = Annotated[
    float | None, typer.Option(min=0, help=f"Seconds to wait, with --wait; {records.LONG:g} if left out.")
]
_WaitForAll = Annotated[
    bool,
    typer.Option("--wait", help=f"Until all of it is known, for longer than the usual {records.PATIENCE:g} seconds."),
]
_RequestId = Annotated[str, typer.Argument(help="Its x-request-id, as in pymesh requests and in every access log.")]

_Record = Mapping[str, Any]


def requests(  # noqa: PLR0917  a command has as many options as it has
    last: _Last = 20,
    to: _To = "",
    from_: _From = "",
    status: _Status = "",
    follow: _Follow = False,
    wait: _Wait = False,
    timeout: _Timeout = None,
    mesh: target.MeshName = "",
    context: target.Context = "",
    kubeconfig: target.Kubeconfig = "",
    namespace: _Namespace = "",
    everywhere: target.Everywhere = False,
    output_format: _Output = Format.table,
) -> None:
    """List the last requests between workloads: who asked whom, and what came of it.

    On this machine or in a cluster.
    """
    _require_status(status)
    if follow and wait:
        raise MeshError("--wait ends with the first request, --follow with none: give one of the two")
    patience = _patience(wait, timeout, 0.0)
    query = {"to": to, "from": from_, "status": status, "namespace": target.only(namespace, everywhere)}
    asked = {"once": "1", **{name: value for name, value in query.items() if value}}
    out = Console(highlight=False)
    with target.opened(mesh, context, kubeconfig) as found_mesh:
        found = _reported(found_mesh, {**asked, "last": last}, patience)
        found.sort(key=lambda record: float(record["started"]))  # they came in the order in which they ended
        if follow:
            _follow(out, output_format, found_mesh, asked, found)
        pods = found_mesh.pods() if output_format is Format.table else {}
    if wait and not found:
        raise MeshError(f"no such request was reported within {patience:g} s; pymesh requests lists those that were")
    output.show(out, output_format, found, HEADER, rows(found, pods))
    if not found and output_format is Format.table:
        sys.stderr.write("none that the collector remembers; requests are reported within a second or two\n")


def _patience(wait: bool, timeout: float | None, otherwise: float) -> float:
    """Seconds to wait for what has not been reported yet; `otherwise` without --wait."""
    if timeout is not None and not wait:
        raise MeshError("--timeout says how long --wait waits: give both")
    return (records.LONG if timeout is None else timeout) if wait else otherwise


def _reported(mesh: target.Mesh, query: Mapping[str, object], patience: float) -> list[_Record]:
    """What the collector has of `query`; asked again for `patience` seconds while that is nothing."""
    deadline = time.monotonic() + patience
    while True:
        found: list[_Record] = mesh.telemetry("requests", query)
        if found or time.monotonic() >= deadline:
            return found
        time.sleep(POLL)


def _require_status(text: str) -> None:
    if text and not _STATUS.fullmatch(text):
        raise MeshError(f"--status {printable(text)}: as in 503, 5xx or 0 (no answer)")


def _follow(
    out: Console, output_format: Format, mesh: target.Mesh, asked: Mapping[str, str], found: list[_Record]
) -> NoReturn:
    """Print `found` and whatever comes after, until interrupted. For programs one document a line."""
    newest = max((record["number"] for record in found), default=0)
    if output_format is Format.table:
        out.print(_line(HEADER), style="bold", soft_wrap=True)
    try:
        while True:
            for record, row in zip(found, rows(found, mesh.pods() if found else {}), strict=True):
                newest = max(newest, record["number"])
                if output_format is Format.table:
                    out.print(_line(row), soft_wrap=True)
                else:
                    out.out(json.dumps(record), highlight=False)
            time.sleep(POLL)
            output.require_reader()
            found = mesh.telemetry("requests", {**asked, "last": 1000, "after": newest})
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def rows(found: Sequence[_Record], pods: Mapping[str, str]) -> list[list[str]]:
    """The table of `pymesh requests`; `pods` has the names of pods by address."""
    return [
        [
            datetime.fromtimestamp(record["started"], UTC).astimezone().strftime("%H:%M:%S.%f")[:-3],
            _party(record["source"], record["downstream_remote"], pods),
            _party(record["destination"], record["endpoint"], pods) or printable(record["service"]["host"]),
            printable(f"{record['method']} {record['authority']}{record['path']}".strip() or record["protocol"]),
            f"{record['status']}{'' if record['flag'] == '-' else ' ' + record['flag']}",
            f"{record['times_ms']['end'] or 0.0:.1f}",
            "yes" if record["upstream_peer"] or record["security"] == "mutual_tls" else "no",
            printable(record["request_id"]) or "-",
        ]
        for record in found
    ]


def _party(peer: Mapping[str, str], address: str, pods: Mapping[str, str]) -> str:
    """A workload by its name, or what is known of whoever has none."""
    if peer["workload"] != "unknown":
        return printable(peer["workload"])
    return pods.get(address.rpartition(":")[0], printable(address))


def _line(row: Sequence[str]) -> Text:
    """Columns of a width that fits most, since what is yet to come is not known."""
    widths = (14, 18, 18, 44, 8, 9, 6, 0)
    return Text(" ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def journey(  # noqa: PLR0917  as above
    request_id: _RequestId,
    wait: _WaitForAll = False,
    timeout: _Timeout = None,
    mesh: target.MeshName = "",
    context: target.Context = "",
    kubeconfig: target.Kubeconfig = "",
    output_format: _Output = Format.table,
) -> None:
    """Show one request's way through the mesh: every hop, who answered, what policy said, and every time.

    On this machine or in a cluster. From the collector; where there is none, or it does not answer, the sidecars are
    asked for what they remember.
    """
    patience = _patience(wait, timeout, records.PATIENCE)
    with target.opened(mesh, context, kubeconfig) as found_mesh:
        found = records.of_request(found_mesh, request_id, patience)
        pods = found_mesh.pods() if found.records and output_format is Format.table else {}
    if found.source == "sidecars":
        sys.stderr.write(f"{found.why}; asked the sidecars, which remember their last requests\n")
    if not found.records:
        raise MeshError(
            f"no proxy has a record of {printable(request_id)}: only the newest are kept, and of requests that passed "
            "a sidecar or a gateway. pymesh requests lists them, with their ids"
        )
    hops = journeys.join(found.records)
    out = Console(highlight=False)
    if output_format is not Format.table:
        document = {"request_id": request_id, "trace_id": _trace(found.records), "source": found.source}
        output.show(out, output_format, {**document, "hops": journeys.document(hops)}, (), ())
        return
    for line in story(request_id, hops, pods):
        out.print(line, soft_wrap=True)


def story(request_id: str, hops: list[journeys.Hop], pods: Mapping[str, str]) -> Iterator[Text]:
    """The whole journey in lines: what it was, then hop by hop, then what does not hang together."""
    found = list(journeys.flatten(hops))
    first = hops[0].record
    began = datetime.fromtimestamp(first.started, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    trace = _trace(found)
    yield Text.assemble(
        ("request ", "dim"), printable(request_id), ("  began ", "dim"), began,
        ("  took ", "dim"), f"{first.milliseconds:.1f} ms", *((("  trace ", "dim"), trace) if trace else ()),
    )  # fmt: skip
    yield from journeys.render(hops, pods)
    if missing := journeys.loose_ends(hops):
        yield Text(f"not all of it is known: {missing}", style="yellow")


def _trace(found: Sequence[journeys.Record]) -> str:
    return next((str(record.fields["trace_id"]) for record in found if record.fields.get("trace_id")), "")
