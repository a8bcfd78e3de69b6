"""A real Envoy as a test's child process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ENVOY = Path(__file__).resolve().parents[2] / ".venv-envoy" / "bin" / "envoy"
# Several Envoys on one machine would fight over the shared memory of hot restarts; one thread is enough for a test.
# Access logs are written out after 0.1 s instead of 10.
FLAGS = (
    *("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"),
    *("--file-flush-interval-msec", "100"),
)


def command(config: Path) -> list[str]:
    """The command line that runs Envoy with a bootstrap file."""
    return [str(ENVOY), "-c", str(config), *FLAGS]


@asynccontextmanager
async def envoy_process(bootstrap: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Envoy with this bootstrap (JSON or YAML), killed at the end; its log is `envoy.log` in `folder`."""
    config, log = folder / "envoy.yaml", folder / "envoy.log"
    config.write_text(bootstrap)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command(config), stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        print(log.read_text())
