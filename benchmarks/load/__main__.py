"""Load from the command line: see the package's description, and `--help`."""

import argparse
import asyncio
import contextlib
import gc
import json
import resource
import sys
from typing import Any

import uvloop

from benchmarks.load import churn, command_line, idle, open_loop, stream, text
from benchmarks.load.results import Held
from pymesh.errors import MeshError


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status: 1 where nothing could be measured, or there were errors."""
    arguments = command_line.parse(sys.argv[1:] if argv is None else argv)
    _allow_many_files()
    gc.freeze()  # what is loaded stays: no collection need look at it
    try:
        return uvloop.run(_run(arguments))
    except MeshError as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _run(arguments: argparse.Namespace) -> int:
    if arguments.kind == "requests":
        latencies = await open_loop.measure(command_line.requests(arguments))
        return _print(arguments, latencies.document(), text.latencies(latencies))
    if arguments.kind == "churn":
        churned = await churn.measure(command_line.churn(arguments))
        return _print(arguments, churned.document(), text.churned(churned))
    if arguments.kind == "stream":
        streamed = await stream.measure(command_line.stream(arguments))
        return _print(arguments, streamed.document(), text.streamed(streamed))
    if arguments.kind == "echo":
        await stream.serve("127.0.0.1", arguments.port)
        return 0
    return await _hold(arguments)


async def _hold(arguments: argparse.Namespace) -> int:
    status = 0

    def report(held: Held) -> None:
        nonlocal status
        status = max(status, _print(arguments, held.document(), text.held(held)))

    await idle.hold(command_line.idle(arguments), report, _end_of_input)
    return status


async def _end_of_input() -> None:
    """Until standard input is at its end; from a terminal, until Ctrl-D. It may be a file, so a thread reads it."""
    await asyncio.to_thread(sys.stdin.read)


def _print(arguments: argparse.Namespace, document: dict[str, Any], lines: list[str]) -> int:
    print(json.dumps(document) if arguments.json else "\n".join(lines), flush=True)
    return 1 if document["errors"] else 0


def _allow_many_files() -> None:
    """As many connections as the system lets anybody have; the usual soft limit is 1,024."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # then it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
