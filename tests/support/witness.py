"""A server that tells each caller what it saw of the connection, and a caller that asks: for tests of the redirect.

    serve(pod, "proxy", ("0.0.0.0", 15001), user=1337)
    report = ask(pod, ("10.77.0.3", 9080))
    assert report.server == "proxy" and report.original == ("10.77.0.3", 9080)

As a program it is both ends, so that a test can have either run inside a pod as any user.
"""

import argparse
import json
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass

from pymesh_proxy.transport.original_dst import original_destination
from tests.support.netns import Address, Namespace

# Seconds. On one machine a connection is there at once or never.
ASK_TIMEOUT = 5.0
# Bytes of a report, at most: two names and three addresses.
MAX_REPORT = 4096


@dataclass(frozen=True)
class Report:
    """A connection as the end that accepted it saw it."""

    server: str
    local: Address
    peer: Address
    original: Address | None

    @classmethod
    def parse(cls, text: str) -> "Report":
        """The report in one line of JSON."""
        seen = json.loads(text)
        original = seen["original"]
        return cls(
            seen["server"], tuple(seen["local"]), tuple(seen["peer"]), None if original is None else tuple(original)
        )


def serve(
    namespace: Namespace, name: str, *addresses: Address, user: int | None = None, dual_stack: bool = False
) -> None:
    """Start a witness called `name` in `namespace`; it listens on all of `addresses` when this returns."""
    argv = [sys.executable, "-m", __name__, "serve", name, *(f"{host}={port}" for host, port in addresses)]
    process = namespace.popen(argv + ["--dual-stack"] * dual_stack, user=user, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n", f"the witness {name} did not start"


def ask(namespace: Namespace, address: Address, *, user: int | None = None, source: str = "") -> Report:
    """What the server saw that a connection from `namespace` to `address` ended at.

    Made by root or, as a process of its own, by `user`; from the address `source` if given.

    Raises:
        OSError, AssertionError: there was no connection.
    """
    if user is None:
        with namespace.connect(address, source=(source, 0) if source else None, timeout=ASK_TIMEOUT) as connection:
            return Report.parse(_read(connection))
    argv = [sys.executable, "-m", __name__, "ask", f"{address[0]}={address[1]}", "--source", source]
    return Report.parse(namespace.run(argv, user=user).stdout)


def _read(connection: socket.socket) -> str:
    with connection.makefile() as file:
        return file.read(MAX_REPORT)


def _listen(address: Address, dual_stack: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    return socket.create_server(address, family=family, dualstack_ipv6=dual_stack)


def _testify(name: str, listener: socket.socket) -> None:
    while True:
        accepted, peer = listener.accept()
        with accepted:
            seen = {
                "server": name,
                "local": accepted.getsockname()[:2],
                "peer": peer[:2],
                "original": original_destination(accepted),
            }
            accepted.sendall(json.dumps(seen).encode())


def _address(text: str) -> Address:
    host, _, port = text.partition("=")
    return host, int(port)


def _main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("name")
    serving.add_argument("addresses", nargs="+", type=_address)
    serving.add_argument("--dual-stack", action="store_true")
    asking = commands.add_parser("ask")
    asking.add_argument("address", type=_address)
    asking.add_argument("--source", default="")
    given = parser.parse_args()
    if given.command == "ask":
        source = (given.source, 0) if given.source else None
        with socket.create_connection(given.address, timeout=ASK_TIMEOUT, source_address=source) as connection:
            print(_read(connection))
        return
    listeners = [_listen(address, given.dual_stack) for address in given.addresses]
    print("ready", flush=True)
    for listener in listeners:
        threading.Thread(target=_testify, args=(given.name, listener)).start()


if __name__ == "__main__":
    _main()
