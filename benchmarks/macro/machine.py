"""The machine that figures come from, and which of its cores do what."""

import os
import platform
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass

from benchmarks.macro import procfs
from benchmarks.macro.proxies import ROOT


@dataclass(frozen=True, slots=True)
class Cores:
    """Processors by number: `proxy` for the proxy under load, `load` for wrk and the upstream."""

    proxy: frozenset[int]
    load: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether the proxy has its core for itself."""
        return not self.proxy & self.load


def divide(available: Collection[int], siblings: Callable[[int], Collection[int]]) -> Cores:
    """The last processor for the proxy and one of the others for the load, on another core where there is one.

    The load gets one processor on every machine, so that figures of large and small machines mean the same.
    """
    *others, proxy = sorted(available)
    if not others:
        return Cores(frozenset({proxy}), frozenset({proxy}))
    elsewhere = [cpu for cpu in others if cpu not in siblings(proxy)]
    return Cores(frozenset({proxy}), frozenset({(elsewhere or others)[-1]}))


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader of figures must know of where they come from."""

    cpu: str
    cores: int
    proxy_cores: list[int]
    load_cores: list[int]
    kernel: str
    python: str
    commit: str
    load_average: float


def describe(cores: Cores) -> Machine:
    """This machine, now."""
    return Machine(
        cpu=procfs.cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        proxy_cores=sorted(cores.proxy),
        load_cores=sorted(cores.load),
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        commit=_commit(),
        load_average=round(os.getloadavg()[0], 2),
    )


def _commit() -> str:
    """The commit of the sources, marked `-dirty` where they differ from it; `unknown` outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    try:
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return said.stdout.strip() or "unknown"
