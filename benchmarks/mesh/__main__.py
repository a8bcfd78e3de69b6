"""What the policy service and the collector cost a sidecar, and what every part of the mesh weighs.

    python -m benchmarks.mesh [--rounds N] [--seconds S] [--json FILE]

Two local meshes run at once, one without the optional parts; only one of them has load at a time. Needs root.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from string import Template
from typing import Final

from benchmarks.macro import figures, procfs
from benchmarks.macro.report import columns
from benchmarks.mesh.variants import (
    BARE,
    FULL,
    VARIANTS,
    WITHOUT,
    Load,
    Turn,
    Variant,
    added_latency,
    compared,
    parse_load,
)  # fmt: skip
from pymesh.errors import MeshError
from pymesh_controlplane.cli import manifests
from pymesh_controlplane.cli.mesh import LocalMesh

_HERE: Final = Path(__file__).parent
_NAMESPACE: Final = "bench"
_SIDECAR: Final = "pymesh-proxy"
_URL: Final = "http://server:8080/"
# Connections of the busy half of a turn; the other half has one.
_CONNECTIONS: Final = 16


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.mesh", description="What policy and telemetry cost.")
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="(default %(default)s)")
    made.add_argument("--seconds", type=int, default=2, metavar="S", help="of load, twice a turn (default %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    arguments = made.parse_args(argv)
    try:
        return run(arguments.rounds, arguments.seconds, arguments.json)
    except MeshError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(rounds: int, seconds: int, file: Path | None) -> int:
    """Measure so many rounds of all variants.

    Raises:
        MeshError: a mesh does not start, or a request failed.
    """
    turns: dict[str, list[Turn]] = {variant.name: [] for variant in VARIANTS}
    by_name = {variant.name: variant for variant in VARIANTS}
    with ExitStack() as stack:
        meshes = {name: stack.enter_context(_mesh(name)) for name in (BARE, FULL)}
        idle = {name: memory(mesh) for name, mesh in meshes.items()}
        for number in range(-1, rounds):  # the first is a warm-up
            # Forwards and backwards: a machine that gets slower meanwhile does so for all alike.
            taken: dict[str, list[Turn]] = {}
            for name in figures.order(list(by_name), max(number, 0)):
                taken.setdefault(name, []).append(turn(meshes[by_name[name].mesh], by_name[name], seconds))
            if number >= 0:
                for name, both in taken.items():
                    turns[name].append(_mean(both))
                _say(f"round {number + 1}: " + " · ".join(_short(name, turns[name][-1]) for name in turns))
        loaded = {name: memory(mesh) for name, mesh in meshes.items()}
    print("\n".join(lines(turns, idle[FULL], loaded[FULL])))
    if file is not None:
        found = {name: [asdict(one) for one in seen] for name, seen in turns.items()}
        file.write_text(json.dumps({"turns": found, "rss_idle": idle, "rss_loaded": loaded}, indent=2) + "\n")
    return 0


@contextmanager
def _mesh(name: str) -> Iterator[LocalMesh]:
    mesh = LocalMesh(f"bench{name}")
    report = "".join(f"    {line}\n" for line in (_HERE / "report.lua").read_text().splitlines())
    text = Template((_HERE / "sample.yaml").read_text()).substitute(BODY="x" * 1024, REPORT=report)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.yaml"
        sample.write_text(text)
        mesh.down()
        mesh.start(manifests.read([str(sample)]), without=WITHOUT[name].split(","))
        try:
            mesh.wait(lambda _: None)
            yield mesh
        finally:
            mesh.down()


def turn(mesh: LocalMesh, variant: Variant, seconds: int) -> Turn:
    """Put the variant in force and load it."""
    with _in_force(mesh, variant.rules):
        pids = {row["owner"]: row["pids"][_SIDECAR] for row in mesh.rows() if row["namespace"] == _NAMESPACE}
        before = {name: procfs.cpu_seconds(pid) for name, pid in pids.items()}
        busy = _load(mesh, _CONNECTIONS, seconds)
        used = {name: procfs.cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        alone = _load(mesh, 1, seconds)
    return Turn(
        busy.requests,
        {name: cpu / busy.requests * 1e6 for name, cpu in used.items()},
        alone.p50_us,
        alone.p99_us,
    )


@contextmanager
def _in_force(mesh: LocalMesh, rules: str) -> Iterator[None]:
    if not rules:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rules.yaml"
        file.write_text(rules)
        texts = manifests.read([str(file)])
        mesh.apply(texts)
        mesh.wait(lambda _: None)
        try:
            yield
        finally:
            kind = rules.partition("kind: ")[2].partition("\n")[0]
            mesh.delete([(kind, _NAMESPACE, "bench")])
            mesh.wait(lambda _: None)


def _load(mesh: LocalMesh, connections: int, seconds: int) -> Load:
    size = ["-t", "1", "-c", str(connections), "-d", f"{seconds}s"]
    output = mesh.run("client", _NAMESPACE, ["wrk", *size, "-s", "/etc/bench/report.lua", _URL])
    try:
        return parse_load(output)
    except ValueError as error:
        raise MeshError(f"under load: {error}") from error


def memory(mesh: LocalMesh) -> dict[str, int]:
    """Bytes resident of every container of a mesh, by `pod/container`; pods without the random part of their name."""
    return {
        f"{row['owner'] or row['name']}/{container}": procfs.resident_bytes(pid)
        for row in mesh.rows()
        for container, pid in row["pids"].items()
    }


def _mean(both: list[Turn]) -> Turn:
    count = len(both)
    return Turn(
        sum(one.requests for one in both),
        {name: sum(one.cpu_us[name] for one in both) / count for name in both[0].cpu_us},
        sum(one.p50_us for one in both) / count,
        sum(one.p99_us for one in both) / count,
    )


def lines(turns: dict[str, list[Turn]], idle: dict[str, int], loaded: dict[str, int]) -> list[str]:
    """The tables."""
    base = VARIANTS[0].name
    ratios = {whose: compared(turns, base, whose) for whose in ("client", "server")}
    added = added_latency(turns, base)
    rows: list[tuple[str, ...]] = [
        ("", "CPU µs/request", "", "next to off", "", "p50 µs", "added", "p99 µs"),
        ("", "client's", "server's", "client's", "server's", "", "", ""),
    ]
    for variant in VARIANTS:
        seen, name = turns[variant.name], variant.name
        rows.append(
            (
                name,
                *(f"{median(one.cpu_us[whose] for one in seen):.1f}" for whose in ("client", "server")),
                *(f"{ratios[whose][name]:.2f}" for whose in ("client", "server")),
                f"{median(one.p50_us for one in seen):.0f}",
                f"{added[name]:+.0f}",
                f"{median(one.p99_us for one in seen):.0f}",
            )
        )
    sizes = [("memory, MB", "idle", "after load")]
    sizes += [(name, f"{size / 1e6:.1f}", f"{loaded.get(name, 0) / 1e6:.1f}") for name, size in sorted(idle.items())]
    notes = [f"{variant.name}: {variant.summary}" for variant in VARIANTS]
    machine = f"{procfs.cpu_model()}, {len(os.sched_getaffinity(0))} cores for everything, client and server included"
    return [machine, "", *notes, "", *columns(rows), "", *columns(sizes)]


def _short(name: str, one: Turn) -> str:
    return f"{name} {one.cpu_us['server']:.0f} µs, p50 {one.p50_us:.0f} µs"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
