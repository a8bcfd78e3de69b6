"""The instruments as processes on cores of their own: what benchmarks call.

A process of its own, since it must not share an event loop, a lock or a core with anything that is measured.
"""

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from benchmarks.load import command_line
from benchmarks.load.plans import Requests
from benchmarks.load.results import Latencies
from pymesh.errors import MeshError

ROOT: Final = Path(__file__).resolve().parents[2]
# Seconds beyond what a plan may take by itself.
_GRACE: Final = 30.0


def latencies(plan: Requests, cores: Collection[int] = ()) -> Latencies:
    """Requests by a schedule, from a process of its own on these processors (none: on any).

    Raises:
        MeshError: it could not be measured: nobody listens, a file of the plan cannot be read.
    """
    wait = plan.warm_up + plan.seconds + plan.timeout + _GRACE
    return Latencies.of(_document(command_line.requests_arguments(plan), cores, wait))


def command(arguments: list[str], cores: Collection[int]) -> list[str]:
    """The command line of an instrument, to be run in `ROOT`."""
    pinned = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores else []
    return [*pinned, sys.executable, "-m", "benchmarks.load", *arguments, "--json"]


def _document(arguments: list[str], cores: Collection[int], wait: float) -> dict[str, Any]:
    try:
        ended = subprocess.run(
            command(arguments, cores), cwd=ROOT, capture_output=True, text=True, check=False, timeout=wait
        )
    except subprocess.TimeoutExpired as error:
        raise MeshError(f"the load generator did not end within {wait:g} s") from error
    try:
        document = json.loads(ended.stdout)
    except ValueError as error:
        raise MeshError(ended.stderr.strip().removeprefix("load: ") or "the load generator said nothing") from error
    assert isinstance(document, dict)
    return document
