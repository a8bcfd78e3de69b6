"""A real Redis, from Debian, on loopback and without persistence."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.proxy_process import free_port
from tests.support.waiting import eventually_sync


@contextmanager
def redis_server(
    directory: Path, *options: str, port: int | None = None
) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Its port and its process, which is killed at the end. With a certificate among `options` it speaks TLS alone."""
    program = shutil.which("redis-server")
    assert program, "deploy/debian/install-packages installs redis-server"
    port = port or free_port()
    ports = ["--port", "0", "--tls-port", str(port)] if "--tls-cert-file" in options else ["--port", str(port)]
    command = [program, "--bind", "127.0.0.1", *ports, "--save", "", "--appendonly", "no", *options]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL) as process:
        try:
            eventually_sync(lambda: listens(port), what="redis-server listens")
            yield port, process
        finally:
            process.kill()


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
