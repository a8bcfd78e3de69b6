"""The whole benchmark once, short, next to a real Envoy: it must work; what it measures here says nothing."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.macro import procfs
from benchmarks.macro.__main__ import main
from tests.support.repository import ROOT
from tests.support.waiting import eventually_sync


@pytest.mark.e2e
@pytest.mark.mesh
@pytest.mark.envoy
def test_a_quick_run_has_no_errors_and_all_figures(tmp_path: Path) -> None:
    # Both load generators, bodies, TLS and several hops; the other scenarios differ from them by their files.
    names = ["pair-mtls", "post-chunked"]
    file, page = tmp_path / "results" / "quick.json", tmp_path / "results" / "quick.md"
    command = [sys.executable, "-m", "benchmarks.macro", "--quick", "--json", str(file), "--markdown", str(page)]
    ended = subprocess.run([*command, *names], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "\x1b" not in ended.stdout
    assert ended.stdout.count("pymesh / envoy, round by round:") == len(names)
    assert [line for line in page.read_text().splitlines() if line.startswith("#")] == [
        f"### {title}" for title in ("machine", "summary", *names)
    ]

    document = json.loads(file.read_text())
    assert list(document["scenarios"]) == names
    for name, seen in document["scenarios"].items():
        assert list(seen["proxies"]) == ["pymesh", "envoy"]
        for proxy in seen["proxies"].values():
            _check(proxy, name)
        ours, theirs = (next(iter(proxy["figures"].values()))["median"] for proxy in seen["proxies"].values())
        ratio = next(iter(seen["ratios_to_envoy"]["pymesh"].values()))["median"]
        assert ratio == pytest.approx(ours / theirs, rel=1e-3)
    assert list(document["scenarios"]["pair-mtls"]["proxies"]["envoy"]["rounds"][0]["cpu_seconds"]) == [
        "client",
        "server",
    ]
    assert document["machine"]["cores"] >= 1
    assert document["programs"]["envoy"].startswith("1.40")


def _check(proxy: dict[str, Any], name: str) -> None:
    assert proxy["errors"] == 0
    [one] = proxy["rounds"]
    assert one["units"] > 0.01, name
    # What was done costs something, and a core has one second in a second (and some ticks of ten milliseconds).
    assert 0 < sum(one["cpu_seconds"].values()) <= one["seconds"] * 1.1, name
    assert one["load_cpu_seconds"] > 0, name
    assert 5_000_000 < proxy["rss_idle_bytes"] < 1_000_000_000, name
    assert 5_000_000 < proxy["rss_loaded_bytes"] < 1_000_000_000, name
    assert (proxy["latencies"] is not None) == (name == "post-chunked")


@pytest.mark.e2e
@pytest.mark.mesh
def test_whatever_was_started_ends_with_it() -> None:
    command = [sys.executable, "-m", "benchmarks.macro", "h1-plain", "--seconds", "60", "--proxies", "pymesh"]
    bench = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert bench.stderr is not None
    try:
        assert bench.stderr.readline() == "h1-plain: warm-up\n"
        family = eventually_sync(lambda: _at_least(4, bench.pid), what="upstream, its worker, proxy and wrk")
    finally:
        bench.terminate()
        bench.communicate(timeout=30)
    assert bench.returncode == 128 + signal.SIGTERM
    eventually_sync(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], what="all of them gone")


def _at_least(count: int, root: int) -> set[int]:
    """What a process has started, once it is so many."""
    found = procfs.family(root, procfs.processes()) - {root}
    assert len(found) >= count
    return found


def test_an_unknown_scenario_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["h3"])
    assert "unknown scenario h3: choose from h1-plain" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_rounds_are_counted_from_one(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--rounds", value])
    assert "is not a whole number from 1 on" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--proxies", "traefik"]) == 1
    assert capsys.readouterr().err.startswith("benchmark: unknown proxy traefik: choose from ")


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    assert main(["--quick", "h1-plain", "--proxies", "pymesh", "--json", str(tmp_path / "taken" / "figures.json")]) == 1
    said = capsys.readouterr()
    assert "benchmark: cannot write" in said.err
    assert said.out == ""
