"""What commands print: tables for people, JSON and YAML for programs."""

import enum
import errno
import json
import os
import select
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml
from rich.console import Console
from rich.text import Text

STDOUT: Final = 1
# Styles of words that tell how something is; everything else is plain.
_STYLES: Final = {
    **dict.fromkeys(("Running", "Completed", "SYNCED", "created", "configured"), "green"),
    **dict.fromkeys(("Pending", "ContainerCreating", "Terminating", "STALE", "deleted"), "yellow"),
    **dict.fromkeys(("Error", "CrashLoopBackOff", "NACKED", "Failed", "not found"), "red"),
}


def require_reader() -> None:
    """Look whether somebody still reads the standard output: who follows something may have nothing to print for hours.

    Raises:
        BrokenPipeError: nobody does, as when `grep -m1` has found its line.
    """
    standard_output = select.poll()
    standard_output.register(STDOUT, 0)  # no event is asked for: that the other end is gone is told all the same
    if any(events & (select.POLLERR | select.POLLHUP) for _, events in standard_output.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Format(enum.StrEnum):
    """How a command prints what it found."""

    table = "table"
    json = "json"
    yaml = "yaml"


def show(console: Console, output: Format, document: Any, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `document` for programs, or `rows` for people."""
    if output is Format.json:
        console.out(json.dumps(document, indent=2), highlight=False)
    elif output is Format.yaml:
        console.out(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False).rstrip(), highlight=False)
    else:
        table(console, header, rows)


def table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their content; never cut, since what is cut in a pipe is lost.

    All in one go: a reader that has what it wanted (`grep -q`) may leave, and that is no failure.
    """
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]
    lines = [_line(header, widths, "bold"), *(_line(row, widths) for row in rows)]
    console.print(Text("\n").join(lines), soft_wrap=True)


def _line(cells: Sequence[str], widths: Sequence[int], style: str = "") -> Text:
    parts = []
    for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        last = index == len(cells) - 1
        word = cell.removeprefix("Init:")
        parts.append((cell if last else f"{cell:<{width + 2}}", style or _STYLES.get(word, "")))
    return Text.assemble(*parts)


def age(seconds: float) -> str:
    """A length of time as kubectl prints it: `42s`, `3m7s`, `5h`, `2d`."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    if whole < 600:
        return f"{whole // 60}m{whole % 60}s"
    if whole < 7200:
        return f"{whole // 60}m"
    return f"{whole // 3600}h" if whole < 172_800 else f"{whole // 86_400}d"


def pod_rows(rows: Sequence[Mapping[str, Any]], now: float) -> list[list[str]]:
    """The table of `pymesh ps`."""
    return [
        [
            row["namespace"],
            row["name"],
            f"{row['ready']}/{row['containers']}",
            row["status"],
            str(row["restarts"]),
            age(now - row["created"]) if row["created"] else "-",
            row["ip"] or "-",
            " ".join(f"{address}->{port}" for address, port in row["host_ports"].items()) or "-",
            " ".join(str(row["message"]).split()),
        ]
        for row in rows
    ]


def problem_line(problem: Mapping[str, Any]) -> Text:
    """One line of what pilot has refused, or finds odd."""
    return Text(str(problem["text"]), style="red" if problem["severity"] == "error" else "yellow")


POD_HEADER: Final = ("NAMESPACE", "POD", "READY", "STATUS", "RESTARTS", "AGE", "IP", "HOST PORTS", "REASON")
STATUS_TYPES: Final = ("CDS", "EDS", "LDS", "RDS")


def status_rows(proxies: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table of `pymesh status`."""
    return [
        [
            str(proxy["proxy"]),
            str(proxy["user_agent"]),
            *(str(proxy["types"].get(kind.lower(), {}).get("status", "-")) for kind in STATUS_TYPES),
            str(proxy["pilot"]),
            "; ".join(str(state["error"]) for state in proxy["types"].values() if state.get("error")),
        ]
        for proxy in sorted(proxies, key=lambda proxy: str(proxy["proxy"]))
    ]
