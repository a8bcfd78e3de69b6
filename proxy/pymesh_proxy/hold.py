"""`pymesh-proxy wait` and `pymesh-proxy drain`: what the container of a sidecar runs as its hooks.

Standard library only, and nothing of the proxy: they run beside it, inside its memory, while a kubelet waits.
"""

import argparse
import http.client
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pymesh import names

# Seconds: a kubelet starts a container anew whose postStart hook fails.
DEFAULT_PATIENCE: Final = 60.0
# Seconds between two looks, and for one answer of the proxy.
PERIOD: Final = 0.1
ANSWER_TIMEOUT: Final = 2.0
# Seconds without a socket of the app after which it is taken for ended: longer than the pause between two calls of a
# client that is finishing its work.
QUIET: Final = 3.0

# The sockets of the pod's network namespace: proc_net(5).
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

_COMMANDS: Final = ("wait", "drain")
HELP: Final = """\
hooks of a sidecar's container:
  pymesh-proxy wait       until the proxy is ready: hold the app back (postStart)
  pymesh-proxy drain      answer with connection: close from now on, and stay as long as the app does (preStop)
"""


def is_hook(argv: Sequence[str]) -> bool:
    """Whether `argv` is for this module."""
    return bool(argv) and argv[0] in _COMMANDS


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with a usage message where it is wrong."""
    parser = argparse.ArgumentParser("pymesh-proxy")
    commands = parser.add_subparsers(dest="command", required=True)
    wait = commands.add_parser("wait", help="until the proxy is ready")
    wait.add_argument(
        "--timeout", type=float, default=DEFAULT_PATIENCE, metavar="SECONDS", help="at most (default %(default)g)"
    )
    wait.add_argument("--readiness-port", type=int, default=names.PORT_READINESS, metavar="PORT")
    drain = commands.add_parser("drain", help="begin to end: answer with connection: close")
    drain.add_argument(
        "--until-app-ends",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="then wait, at most as long, until no socket in the pod is the app's (default: do not wait)",
    )
    drain.add_argument("--admin-port", type=int, default=names.PORT_ADMIN, metavar="PORT")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run a hook; its exit status, 0 if it has done what it is for."""
    given = parse(argv)
    if given.command == "wait":
        return _wait(given.readiness_port, given.timeout)
    return _drain(given.admin_port, given.until_app_ends)


def _wait(port: int, patience: float) -> int:
    deadline = time.monotonic() + patience
    while True:
        status, said = ask("GET", port, "/healthz/ready")
        if status == http.client.OK:
            return 0
        if time.monotonic() >= deadline:
            print(f"pymesh-proxy wait: not ready within {patience:g} s: {said}", file=sys.stderr)
            return 1
        time.sleep(PERIOD)


def _drain(port: int, patience: float) -> int:
    # The words after the question mark are for Envoy, whose admin interface this may be.
    status, said = ask("POST", port, "/drain_listeners?graceful&skip_exit")
    if status != http.client.OK:
        print(f"pymesh-proxy drain: the proxy does not drain: {said}", file=sys.stderr)
    begun = seen = time.monotonic()
    while (now := time.monotonic()) - begun < patience and now - seen < QUIET:
        if app_sockets(_lines(), os.getuid()):
            seen = now
        time.sleep(PERIOD)
    return 0 if status == http.client.OK else 1


def ask(method: str, port: int, path: str) -> tuple[int, str]:
    """Status and text of the proxy's answer; status 0 if there is none, and why."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(1024).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error) or type(error).__name__
    finally:
        connection.close()


def app_sockets(lines: Iterable[str], own_uid: int) -> int:
    """How many sockets in `lines` of /proc/net/tcp belong to a process of another user. Pure.

    What has no inode (TIME-WAIT, a handshake that nobody has accepted) belongs to no process any more, or yet.
    """
    count = 0
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or not fields[7].isdecimal():  # the heading
            continue
        count += int(fields[7]) != own_uid and fields[9] != "0"
    return count


def _lines() -> Iterable[str]:
    for table in _TABLES:
        if table.exists():
            yield from table.read_text().splitlines()
