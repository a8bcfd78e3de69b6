"""`pymesh-controlplane`: the command line."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import uvloop

from pymesh.errors import ConfigError, MeshError, Position
from pymesh_controlplane import app, logs, options
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.sources.directory import DirectorySource
from pymesh_controlplane.sources.last_good import LastGood

log = logging.getLogger("pymesh.controlplane")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the control plane; the exit status of the process."""
    given = options.parse(arguments)
    logs.configure(given.log_level, given.log_format)
    try:
        source = _source(given)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.run(given, source, serving_now=_serving))
    except MeshError as error:
        sys.stderr.write(f"pymesh-controlplane: {error}\n")
        return 1
    return 0


def _source(given: options.Options) -> Source | None:
    """Where the world of pilot and policy comes from; None if neither runs here.

    Raises:
        ConfigError: the folder cannot be read.
    """
    if given.components.isdisjoint({"pilot", "policy"}) or given.config_dir is None:
        return None
    _check_readable(given.config_dir)
    last_good = None
    if given.state_dir is not None:
        _check_readable(given.state_dir)
        last_good = LastGood(given.state_dir, given.config_dir)
    return DirectorySource(given.config_dir, trust_domain=given.trust_domain, last_good=last_good)


def _check_readable(folder: Path) -> None:
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", position=Position(str(folder))) from error


def _serving(ports: app.Ports) -> None:
    log.info("serving %s", " ".join(f"{name}={port}" for name, port in asdict(ports).items() if port is not None))


if __name__ == "__main__":
    sys.exit(main())
