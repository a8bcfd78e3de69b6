"""Sends all messages through all proxies and keeps what came of it: `python -m tests.conformance.grid [PROXY ...]`."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.conformance.grid import proxies, table
from tests.conformance.grid.run import grid


async def main(names: list[str]) -> None:
    """Write the columns `names` of the table anew, and its page."""
    kept = table.load()
    with tempfile.TemporaryDirectory() as folder:
        async with grid(Path(folder), names, {}) as running:
            for name in names:
                rows = [*await running.requests(name), *await running.responses(name)]
                kept = table.with_column(kept, name, proxies.version(name), rows)
    table.save(kept)


asyncio.run(main(sys.argv[1:] or list(proxies.NAMES)))
