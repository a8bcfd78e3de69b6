"""The kept verdicts: table.json for the test, docs/smuggling.md for people."""

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Final, TypedDict

from tests.conformance.grid.proxies import NAMES
from tests.conformance.grid.requests import Crafted, requests
from tests.conformance.grid.responses import responses
from tests.conformance.grid.run import Row
from tests.conformance.grid.verdicts import Verdict

FILE: Final = Path(__file__).with_name("table.json")
PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "smuggling.md"


class Kept(TypedDict):
    """The versions of the proxies, and for each row what each of them did."""

    versions: dict[str, str]
    rows: dict[str, dict[str, Verdict]]


def load() -> Kept:
    """What is kept; empty where there is nothing yet."""
    if not FILE.exists():
        return {"versions": {}, "rows": {}}
    kept: Kept = json.loads(FILE.read_text())
    return kept


def with_column(kept: Kept, name: str, version: str, rows: Iterable[Row]) -> Kept:
    """`kept`, with the column of one proxy anew."""
    column = {row.crafted.key: row.verdict for row in rows}
    keys = [crafted.key for crafted in (*requests(), *responses())]
    return {
        "versions": {**kept["versions"], name: version},
        "rows": {key: {**kept["rows"].get(key, {}), name: column[key]} for key in keys},
    }


def save(kept: Kept) -> None:
    """Write both files."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in kept["rows"].items())
    FILE.write_text(f'{{"versions": {json.dumps(kept["versions"])},\n "rows": {{\n{lines}\n}}}}\n')
    PAGE.write_text(page(kept))


HEAD: Final = """\
# Requests and responses that can be read in two ways

Request smuggling needs two servers that read the same bytes differently. This page shows what four proxies make of
{requests} crafted requests and {responses} crafted responses: pymesh-proxy and Envoy {envoy} from one bootstrap,
HAProxy {haproxy} and nginx {nginx} with nothing that makes them stricter. All accept HTTP/1.0, and pymesh and Envoy
allow WebSocket.

A test (`tests/conformance/test_grid.py`) sends every message again and compares, and has **everything that pymesh
forwards read once more by all four**, a marker behind it: each must see the same number of requests with the same
bodies, or refuse. It does the same with the responses that pymesh passes on.

In the bytes of a request `~` stands for `HTTP/1.1`, its line end and a Host line.

For a request a cell has the statuses that the client got and, behind `→`, the requests that reached the upstream, each
with its body. `✂` means that the client's connection was closed, `…` that the proxy waits for more. For a response a
cell has what the client got, and `↻` where the connection to the upstream was used again.

This page and `tests/conformance/grid/table.json` are written by `python -m tests.conformance.grid`. Do not edit them.
"""


def page(kept: Kept) -> str:
    """The table for people."""
    questions, answers = list(requests()), list(responses())
    numbers = {"requests": len(questions), "responses": len(answers)}
    parts = [HEAD.format(**numbers, **kept["versions"])]
    for title, cell, messages in (("Requests", _request_cell, questions), ("Responses", _response_cell, answers)):
        parts.append(f"\n## {title}\n")
        for group, members in groupby(messages, key=lambda crafted: crafted.group):
            parts.append(
                f"\n### {group}\n\n| message | bytes | {' | '.join(NAMES)} |\n|---|---|{'---|' * len(NAMES)}\n"
            )
            for crafted in members:
                row = kept["rows"][crafted.key]
                cells = [_safe(crafted.name), _code(_excerpt(crafted)), *(cell(row[name]) for name in NAMES)]
                parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def _request_cell(verdict: Verdict) -> str:
    end = " ✂" if verdict["connection"] == "closed" else "" if verdict["answers"] else "…"
    forwarded = "".join(f" → {_code(one)}" for one in verdict["forwarded"].split(" | ") if one)
    return _safe(verdict["answers"] or ("" if end else "—")) + forwarded + end


def _response_cell(verdict: Verdict) -> str:
    end = " ✂" if verdict["connection"] == "closed" else ""
    answers = ", ".join(_code(one) for one in verdict["answers"].split(" | ") if one) or "nothing"
    return answers + end + (" ↻" if "reused" in verdict["next"] else "")


def _excerpt(crafted: Crafted) -> str:
    """The bytes of a message, but what all of its kind have in common."""
    data = crafted.data
    for common in (b" HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 200 OK\r\n"):
        data = data.replace(common, b" ~ ", 1) if data[:40].find(common) >= 0 else data
    text = repr(data)[2:-1]
    return text if len(text) <= 110 else f"{text[:80]} … ({len(crafted.data)} bytes)"


def _code(text: str) -> str:
    """Text of any kind as code in a cell."""
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text or text[:1] == " " or text[-1:] == " " else ""
    return fence + pad + text.replace("|", "\\|") + pad + fence


def _safe(text: str) -> str:
    return _code(text) if any(sign in text for sign in "|<>*_`\\#[]") else text
