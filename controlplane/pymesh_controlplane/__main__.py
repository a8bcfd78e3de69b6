"""`pymesh-controlplane`: the command line."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict

import uvloop

from pymesh.errors import MeshError
from pymesh_controlplane import app, logs, options
from pymesh_controlplane.ports import Ports

log = logging.getLogger("pymesh.controlplane")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the control plane; the exit status of the process."""
    given = options.parse(arguments)
    logs.configure(given.log_level, given.log_format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.run(given, serving_now=_serving))
    except MeshError as error:
        sys.stderr.write(f"pymesh-controlplane: {error}\n")
        return 1
    return 0


def _serving(ports: Ports) -> None:
    log.info("serving %s", " ".join(f"{name}={port}" for name, port in asdict(ports).items() if port is not None))


if __name__ == "__main__":
    sys.exit(main())
