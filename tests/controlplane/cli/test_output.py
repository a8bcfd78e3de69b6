"""What commands print."""

import io
import json
import os
import subprocess
import sys

import pytest
import yaml
from rich.console import Console

from pymesh_controlplane.cli.output import Format, age, pod_rows, show, status_rows


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (119, "119s"), (187, "3m7s"), (700, "11m"), (7200, "2h"), (200_000, "2d")],
)
def test_ages_are_kubectls(seconds: float, text: str) -> None:
    assert age(seconds) == text


def printed(output: Format, *, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=20, force_terminal=terminal, highlight=False)
    show(
        console, output, [{"name": "web"}], ("NAME", "STATUS"), [["a-name-that-is-longer-than-the-terminal", "Running"]]
    )
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_table_is_never_cut_and_coloured_on_terminals_only() -> None:
    assert printed(Format.table).splitlines() == [
        "NAME                                     STATUS",
        "a-name-that-is-longer-than-the-terminal  Running",
    ]
    assert "\x1b[32mRunning" in printed(Format.table, terminal=True)


@pytest.mark.parametrize("reads", [True, False])
def test_a_reader_that_has_gone_is_noticed_without_writing(reads: bool) -> None:
    reader, writer = os.pipe()
    if not reads:
        os.close(reader)
    program = "from pymesh_controlplane.cli import output; output.require_reader()"
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    assert ("BrokenPipeError" in done.stderr) is not reads
    for descriptor in (reader, writer) if reads else (writer,):
        os.close(descriptor)


def test_programs_get_documents() -> None:
    assert json.loads(printed(Format.json)) == [{"name": "web"}]
    assert yaml.safe_load(printed(Format.yaml)) == [{"name": "web"}]


def test_rows_of_pods_and_proxies() -> None:
    pod = {
        "namespace": "shop",
        "name": "web-1",
        "ready": 1,
        "containers": 2,
        "status": "Running",
        "restarts": 0,
        "created": 100.0,
        "ip": "",
        "host_ports": {"127.0.0.1:8080": 80},
        "message": "two\nlines",
    }
    ways_in = "127.0.0.1:8080->80"
    assert pod_rows([pod], 105.0) == [["shop", "web-1", "1/2", "Running", "0", "5s", "-", ways_in, "two lines"]]
    states = {"lds": {"status": "NACKED", "error": "no such filter"}, "cds": {"status": "SYNCED", "error": ""}}
    proxy = {"proxy": "web-1.shop", "user_agent": "envoy", "types": states, "pilot": "p-1"}
    assert status_rows([proxy]) == [["web-1.shop", "envoy", "SYNCED", "-", "NACKED", "-", "p-1", "no such filter"]]
