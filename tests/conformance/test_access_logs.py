"""Istio's access log, text and JSON: the lines that pymesh-proxy writes of real traffic are Envoy's, byte for byte.

But for what no two runs share: moments, durations, and ports that the kernel chose.
"""

import json
import re
import socket
import socketserver
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from pymesh.access_log_formats import ISTIO_JSON_FORMAT, ISTIO_TEXT_FORMAT
from tests.conformance.sides import Side, Situation, ask, both_proxies
from tests.support.echo import EchoServer
from tests.support.threaded import serving
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.envoy

BOOTSTRAP: Final = Path(__file__).with_name("access_logs.yaml").read_text()
QUESTION: Final = b"\x01" * 4711
OPAQUE: Final = b"bytes of an answer"
ID: Final = ("x-request-id", "5a0eaaaa-1234-4abc-8abc-123456789abc")
CLIENT: Final = (ID, ("user-agent", 'te"st/1.0 (a b)'), ("x-forwarded-for", "192.0.2.1,198.51.100.7"))

SITUATIONS: Final = [
    Situation("answered", 200, "/status/200?a=b&c", headers=CLIENT),
    Situation("with a body", 200, "/status/200", "POST", headers=CLIENT, body=b"x" * 1000),
    Situation("head", 200, "/status/200", "HEAD", headers=(ID,)),
    Situation("error of the upstream", 503, "/status/503", headers=(ID,)),
    Situation("without a body", 204, "/status/204", headers=(ID,)),
    Situation("rewritten", 200, "/old/a?b", headers=(ID,)),
    Situation("route without a name", 200, "/nameless", headers=(ID,)),
    Situation("no route", 404, "/nothing", headers=(ID,)),
    Situation("direct response", 418, "/direct", headers=(ID,)),
    Situation("redirect", 301, "/moved", headers=(ID,)),
    Situation("refused", 503, "/dead", "HEAD", headers=(ID,)),
    Situation("no endpoint", 503, "/nobody", headers=(ID,)),
    Situation("no cluster", 503, "/unknown", headers=(ID,)),
    Situation("upstream breaks", 503, "/break/9", "POST", headers=(ID,)),
    Situation("timeout", 504, "/slow/0.5", headers=(ID,)),
]


class Logged(NamedTuple):
    """A proxy, and its two logs."""

    side: Side
    text: Path
    json: Path

    def lines(self, words: str, act: Callable[[], object]) -> list[str]:
        """The line with `words` that each log has more after `act`."""
        before = {file: len(having(words, file)) for file in (self.text, self.json)}
        act()
        found = []
        for file, count in before.items():
            [line] = eventually_sync(
                lambda file=file, count=count: having(words, file)[count:],  # type: ignore[misc]
                what=f"a line with {words} in {file}",
            )
            found.append(neutral(line, self.side.port))
        return found


def having(words: str, file: Path) -> list[str]:
    """The lines of `file` with `words`."""
    return [line for line in file.read_text().splitlines() if words in line] if file.exists() else []


class Opaque(socketserver.StreamRequestHandler):
    """Answers QUESTION with OPAQUE."""

    def handle(self) -> None:
        """See BaseRequestHandler."""
        self.rfile.read(len(QUESTION))
        self.wfile.write(OPAQUE)


Both = tuple[Logged, Logged]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Envoy and pymesh-proxy, with Istio's formats."""
    folder = tmp_path_factory.mktemp("logs")
    text = BOOTSTRAP.replace("${FOLDER}", str(folder)).replace("${TEXT}", json.dumps(ISTIO_TEXT_FORMAT))
    text = text.replace("${JSON}", json.dumps(ISTIO_JSON_FORMAT))
    opaque_server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Opaque)
    with (
        EchoServer("a") as upstream,
        serving(opaque_server) as opaque,
        both_proxies(folder, upstream, opaque, text) as sides,
    ):
        envoy, pymesh = (Logged(side, folder / f"text.{side.port}", folder / f"json.{side.port}") for side in sides)
        yield envoy, pymesh


# Eight fields, then duration and the upstream's time. JSON has names for them.
_TEXT_TIMES: Final = re.compile(r'((?:(?:"[^ ]*(?: [^ ]+)*?"|\S+) ){9})\d+ (?:\d+|-) ')
_JSON_TIMES: Final = re.compile(r'("(?:duration|upstream_service_time)":)(?:\d+|"\d+")')


def neutral(line: str, port: int) -> str:
    """`line` without what varies from run to run, and without the operating system's word for a refusal."""
    line = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "MOMENT", line)
    line = line.replace(f"127.0.0.1:{port}", "LISTENER")
    line = re.sub(r'[^"{|]*:_(?:\[Errno_111]_)?Connection_refused', "REFUSED", line).replace("|REFUSED", "")
    line = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", line)
    return _JSON_TIMES.sub(r"\1TIME", line) if line.startswith("{") else _TEXT_TIMES.sub(r"\1TIME TIME ", line)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_a_request(both: Both, situation: Situation) -> None:
    envoy, pymesh = (logged.lines(ID[1], lambda logged=logged: asked(logged.side, situation)) for logged in both)  # type: ignore[misc]
    assert pymesh == envoy


def asked(side: Side, situation: Situation) -> None:
    """One request, told apart from the other side's by a word of the same length: the upstream repeats it."""
    connection = side.connect()
    try:
        answer = ask(connection, situation, side.name[0])
    finally:
        connection.close()
    assert answer.status == situation.status


def test_a_connection(both: Both) -> None:
    def connect(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as sock:
            sock.sendall(QUESTION)
            assert sock.recv(len(OPAQUE)) == OPAQUE

    envoy, pymesh = (logged.lines("4711", lambda logged=logged: connect(logged.side.port)) for logged in both)  # type: ignore[misc]
    assert pymesh == envoy
