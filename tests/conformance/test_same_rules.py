"""Versions, upgrades, limits, timeouts, retries, broken upstreams: pymesh-proxy answers as a real Envoy does, sends its
upstream the same, and writes the same status, response flag and details into its log.
"""

import json
import re
import socket
import socketserver
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Final

import h11
import pytest

from tests.conformance.sides import CLIENT_TIMEOUT, DIFFERENT, DIFFERENT_UPSTREAM, Side, both_proxies
from tests.support.echo import EchoServer
from tests.support.threaded import serving
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.envoy

BOOTSTRAP: Final = Path(__file__).with_name("same_rules.yaml").read_text()
# As they stand in the bootstrap: a sidecar that trusts what is before it, and an edge that does not.
MANAGERS: Final = {
    "sidecar": (
        "via: 1.1 me",
        "always_set_request_id_in_response: true",
        "http_protocol_options: {accept_http_10: true, default_host_for_http_10: home}",
        "upgrade_configs: [{upgrade_type: websocket}]",
        "common_http_protocol_options: {max_headers_count: 20}",
        "max_request_headers_kb: 8",
    ),
    "edge": (
        "use_remote_address: true",
        "server_name: front",
        "preserve_external_request_id: true",
        "request_timeout: 0.5s",
        "request_headers_timeout: 0.3s",
        "common_http_protocol_options: {idle_timeout: 1s, max_requests_per_connection: 2}",
    ),
    "second hop": (
        "use_remote_address: true",
        "xff_num_trusted_hops: 1",
        "skip_xff_append: true",
        "server_header_transformation: APPEND_IF_ABSENT",
        "stream_idle_timeout: 0.4s",
        "strip_matching_host_port: true",
    ),
}


@dataclass(frozen=True, slots=True)
class Raw:
    """What a client sends, and the status that Envoy answers with; 0 where it is only hung up.

    `holds`: the client says no more and waits, though its request is not complete.
    """

    name: str
    status: int
    data: bytes


def get(path: str, *lines: str, version: str = "1.1", host: str = "a.test", method: str = "GET") -> bytes:
    """A request without a body."""
    fields = [f"host: {host}"] if host else []
    return "\r\n".join([f"{method} {path} HTTP/{version}", *fields, *lines, "", ""]).encode()


UPGRADE: Final = ("connection: upgrade", "upgrade: websocket")
SITUATIONS: Final = {
    "sidecar": [
        Raw("plain", 200, get("/x")),
        Raw("Via before ours", 200, get("/x", "via: 1.0 a, 1.1 b")),
        Raw("Via of our own answer", 418, get("/direct")),
        Raw("HTTP/1.0", 200, get("/x", version="1.0")),
        Raw("HTTP/1.0 kept alive", 200, get("/x", "connection: keep-alive", version="1.0")),
        Raw("HTTP/1.0 without Host", 200, get("/x", version="1.0", host="")),
        Raw("HTTP/1.0, our own answer", 418, get("/direct", version="1.0")),
        Raw("HTTP/1.1 that closes", 200, get("/x", "connection: close")),
        Raw("x-request-id from a client", 200, get("/x", "x-request-id: mine")),
        Raw("upgrade that is granted", 101, get("/bad/upgrade", *UPGRADE)),
        Raw("upgrade that is declined", 200, get("/x", *UPGRADE)),
        Raw("21 fields", 431, get("/x", *[f"x-{number}: y" for number in range(20)])),
        Raw("head of 9 KiB", 431, get("/x", "x-long: " + "y" * 9000)),
        Raw("no Host", 400, get("/x", host="")),
        Raw("two framings", 400, get("/x", "content-length: 1", "transfer-encoding: chunked", method="POST") + b"x"),
        Raw("unknown coding", 501, get("/x", "transfer-encoding: gzip", method="POST")),
        Raw("route timeout", 504, get("/slow/1.0")),
        Raw("idle timeout of the route", 504, get("/idle/1.0")),
        Raw("refused", 503, get("/refused")),
        Raw("refused, retried", 503, get("/refused-retried")),
        Raw("refused, retried by 5xx", 503, get("/refused-5xx")),
        Raw("5xx, retried in vain", 503, get("/fail/9/503")),
        Raw("5xx, and no retry allowed", 503, get("/fail-full")),
        Raw("5xx, retried well", 200, get("/fail/1/503")),
        Raw("codes, retried in vain", 418, get("/fail-codes")),
        Raw("attempts that take too long", 504, get("/fail-slow")),
        Raw("an attempt that takes too long", 504, get("/fail-slow-once")),
        Raw("connection broken", 503, get("/break/9", method="POST")),
        Raw("connection broken, retried in vain", 503, get("/break-retried/9", method="POST")),
        Raw("no response", 502, get("/bad/garbage")),
        Raw("response with two framings", 502, get("/bad/framings")),
        Raw("response with a bad chunk", 200, get("/bad/chunk")),
        Raw("response cut off", 200, get("/bad/short")),
        Raw("response without an end", 200, get("/bad/until-close")),
        Raw("interim responses", 200, get("/bad/interim")),
        Raw("reset", 503, get("/bad/reset", method="POST")),
    ],
    "edge": [
        Raw("plain", 200, get("/x")),
        Raw("x-forwarded-for", 200, get("/x", "x-forwarded-for: 1.2.3.4, 5.6.7.8")),
        Raw("x-forwarded-proto", 200, get("/x", "x-forwarded-proto: https")),
        Raw("x-request-id from a client", 200, get("/x", "x-request-id: mine")),
        Raw("headers of Envoy's own", 200, get("/x", "x-envoy-retry-on: 5xx", "x-envoy-internal: true")),
        Raw("HTTP/1.0 refused", 426, get("/x", version="1.0")),
        Raw("half a head", 408, b"GET /x HTTP/1.1\r\nx-test: NAME\r\n"),
        Raw("half a body", 408, get("/x", "content-length: 5", method="POST") + b"he"),
    ],
    "second hop": [
        Raw("plain", 200, get("/x")),
        Raw("x-forwarded-for", 200, get("/x", "x-forwarded-for: 1.2.3.4, 5.6.7.8")),
        Raw("x-forwarded-proto", 200, get("/x", "x-forwarded-proto: https")),
        Raw("half a body in silence", 408, get("/x", "content-length: 5", method="POST") + b"he"),
        Raw("no answer in time", 504, get("/lazy/1.0")),
    ],
}
BAD: Final = {
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
    "garbage": b"garbage\r\n\r\n",
    "framings": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
    "short": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
    "until-close": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "interim": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "reset": b"",
}


class Bad(socketserver.BaseRequestHandler):
    """Answers `/bad/<name>` with those bytes, and closes the connection."""

    def handle(self) -> None:
        """See BaseRequestHandler."""
        asked = b""
        while b"\r\n\r\n" not in asked:
            if not (data := self.request.recv(65_536)):
                return
            asked += data
        name = asked.split(b" ")[1].rpartition(b"/")[2].decode()
        if name == "reset":
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.request.sendall(BAD[name])


class BadServer(socketserver.ThreadingTCPServer):
    """Of those answers."""

    request_queue_size = 128  # as many connect at once as there are situations
    daemon_threads = True


@dataclass(frozen=True)
class Reply:
    """What came back: final status, fields, content; `ended`: whether it is complete."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    ended: bool


@dataclass(frozen=True)
class Seen:
    """What a proxy answered, and what it wrote into its log: `status flags details`."""

    reply: Reply
    log: str


@dataclass(frozen=True)
class Rules:
    """All situations of one manager, which were sent at once: by their names, what Envoy and pymesh did."""

    name: str
    seen: dict[str, tuple[Seen, Seen]]
    crowds: dict[str, tuple[list[Seen], list[Seen]]]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rules]:
    return {name: send_all(name, tmp_path_factory.mktemp("rules")) for name in MANAGERS}


def send_all(name: str, folder: Path) -> Rules:
    """Every situation of a manager, to both proxies at once."""
    bootstrap = Template(BOOTSTRAP).safe_substitute(FOLDER=folder, MANAGER="\n          ".join(MANAGERS[name]))
    with (
        EchoServer("a") as a,
        serving(BadServer(("127.0.0.1", 0), Bad)) as b,
        both_proxies(folder, a, b, bootstrap) as sides,
        ThreadPoolExecutor(16) as pool,
    ):
        asked = {
            raw.name: [pool.submit(look, side, raw, log=folder / f"log.{side.port}") for side in sides]
            for raw in SITUATIONS[name]
        }
        seen = {name: (envoy.result(), pymesh.result()) for name, (envoy, pymesh) in asked.items()}
        crowds = {}
        for path in CROWDS if name == "sidecar" else ():
            members = [Raw(f"{path} {number}", 0, get(path)) for number in range(CROWD)]
            found = []
            for side in sides:
                ask = partial(look, side, log=folder / f"log.{side.port}")
                first = pool.submit(ask, members[0])
                eventually_sync(lambda mark=f"{side.name} {path} 0": a.seen[mark], what="the first of a crowd")
                found.append([*pool.map(ask, members[1:]), first.result()])
            crowds[path] = (found[0], found[1])
        return Rules(name, seen, crowds)


def look(side: Side, raw: Raw, *, log: Path) -> Seen:
    """Send a situation to a proxy, and read what it wrote of it."""
    test = f"{side.name} {raw.name}"
    head, _, rest = raw.data.partition(b"\r\n")
    reply = send(side, head + b"\r\nx-test: " + test.encode() + b"\r\n" + rest)
    if raw.name in UNREAD:
        return Seen(reply, "")

    def lines() -> list[str]:
        return [line for line in log.read_text().splitlines() if line.startswith(f"{test}|")]

    eventually_sync(lines, what=f"a line of {test} in the log")
    [line] = lines()
    return Seen(reply, line.partition("|")[2])


def send(side: Side, data: bytes) -> Reply:
    """Send bytes, and read until the response is complete or the connection has ended."""
    method = data.split(b" ")[0]
    peer = h11.Connection(h11.CLIENT)
    fields = [("host", "a"), ("connection", "upgrade"), ("upgrade", "x")]
    peer.send(h11.Request(method=method, target="/", headers=fields))
    peer.send(h11.EndOfMessage())
    with socket.create_connection(("127.0.0.1", side.port), timeout=CLIENT_TIMEOUT) as sock:
        sock.sendall(data)
        status, headers, body = 0, (), b""
        while True:
            try:
                event = peer.next_event()
            except h11.RemoteProtocolError:
                return Reply(status, headers, body, ended=False)
            if event is h11.NEED_DATA:
                try:
                    peer.receive_data(sock.recv(65_536))
                except ConnectionResetError:
                    return Reply(status, headers, body, ended=False)
            elif isinstance(event, h11.Response | h11.InformationalResponse):
                status = event.status_code
                headers = tuple((name.decode(), value.decode()) for name, value in event.headers)
                if status == 101:
                    return Reply(status, headers, b"", ended=True)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                return Reply(status, headers, body, ended=isinstance(event, h11.EndOfMessage))


# So many requests at once, and how many of them are turned away: a cluster that takes one, and one that takes one and
# lets another wait.
CROWD: Final = 4
CROWDS: Final = {"/one-at-a-time": 3, "/none-waiting": 2}


def turned_away(reply: Reply, path: str) -> list[tuple[str, object]]:
    """What a client is told whose request was too much; nothing of one that was served."""
    return sorted(told(reply, Raw(path, 0, b"")).items()) if reply.status == 503 else []


@pytest.mark.parametrize("path", CROWDS)
def test_the_same_number_of_a_crowd_is_turned_away(every: dict[str, Rules], path: str) -> None:
    envoy, pymesh = (
        sorted((seen.reply.status, seen.log, turned_away(seen.reply, path)) for seen in crowd)
        for crowd in every["sidecar"].crowds[path]
    )
    assert pymesh == envoy
    assert [status for status, _, _ in envoy].count(503) == CROWDS[path]


PAIRS: Final = [(name, raw) for name, some in SITUATIONS.items() for raw in some]


@pytest.mark.parametrize(("manager", "raw"), PAIRS, ids=[f"{name}, {raw.name}" for name, raw in PAIRS])
def test_the_same_rules(every: dict[str, Rules], manager: str, raw: Raw) -> None:
    rules = every[manager]
    envoy, pymesh = (seen.reply for seen in rules.seen[raw.name])
    assert envoy.status == raw.status, "this is not what Envoy does: the expectation is wrong"
    theirs, ours = (seen.log for seen in rules.seen[raw.name])
    if raw.name in LOGGED:
        assert ours == LOGGED[raw.name] != theirs
    else:
        assert ours == theirs
    if raw.name in ANOTHER_ANSWER:
        assert (pymesh.status, pymesh.ended) == ANOTHER_ANSWER[raw.name]
        return
    assert (pymesh.status, pymesh.ended) == (envoy.status, envoy.ended)
    assert told(pymesh, raw) == told(envoy, raw)
    assert upstream(pymesh, rules) == upstream(envoy, rules)


# --- What differs on purpose: docs/support.md has the reasons ---------------------------------------------------------

RESET: Final = "upstream_reset_before_response_started"
# pymesh's line in the log, where it says more or other than Envoy's.
LOGGED: Final = {
    "no response": "502 UPE http1.invalid_status_line",
    "response with two framings": "502 UPE http1.content_length_with_transfer_encoding",
    "response with a bad chunk": "502 UPE http1.invalid_chunk_size",
    "response cut off": "200 UC upstream_reset_after_response_started{connection_termination}",
    "half a body": "408 DT request_overall_timeout",
    "upgrade that is granted": "101 - via_upstream",
    "upgrade that is declined": "200 - via_upstream",
    "refused": f"503 UF {RESET}{{remote_connection_failure}}",
    "refused, retried": f"503 URX,UF {RESET}{{remote_connection_failure}}",
    "refused, retried by 5xx": f"503 URX,UF {RESET}{{remote_connection_failure}}",
}
# Status, and whether the answer is complete.
ANOTHER_ANSWER: Final = {
    "response with a bad chunk": (502, True),  # head and bad chunk came at once: nothing of it is passed on
    "upgrade that is declined": (200, True),  # Envoy takes the answer's body away
}
# Our own answers whose text is our own: Envoy has none for `no Host`, and other words for the errno.
OWN_WORDS: Final = {
    "no Host",
    "half a head",
    "refused",
    "refused, retried",
    "refused, retried by 5xx",
}
# The log cannot say of these which they are: their head was never read, or not to its end.
UNREAD: Final = {
    "21 fields",
    "head of 9 KiB",
    "no Host",
    "two framings",
    "unknown coding",
    "half a head",
    "HTTP/1.0 refused",
}
MACHINE: Final = re.compile(r"[0-9.]+$")
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def told(reply: Reply, raw: Raw) -> dict[str, object]:
    """What a client sees, without what differs anyway."""
    seen = {name: [value for key, value in reply.headers if key == name] for name, _ in reply.headers}
    shown: dict[str, object] = {name: values for name, values in seen.items() if name not in DIFFERENT}
    if "x-request-id" in seen and UUID.fullmatch(seen["x-request-id"][0]):
        shown["x-request-id"] = "random"
    shown["connection"] = [value.lower() for value in seen.get("connection", [])]
    if raw.name in OWN_WORDS:
        shown.pop("content-type", None)
    elif "application/json" not in seen.get("content-type", []):
        shown["body"] = reply.body
    return shown


def upstream(reply: Reply, rules: Rules) -> dict[str, object]:
    """What the upstream saw, without what differs anyway."""
    if not reply.body.startswith(b"{"):
        return {}
    content = json.loads(reply.body)
    fields = [(name, "random" if UUID.fullmatch(value) else value) for name, value in content.pop("headers")]
    if rules.name == "edge":  # of a client on loopback Envoy says the first address of the machine
        fields = [
            (name, MACHINE.sub("client", value) if name == "x-forwarded-for" else value) for name, value in fields
        ]
    different = DIFFERENT_UPSTREAM.keys() - {"x-request-id"}
    return {**content, "headers": sorted(pair for pair in fields if pair[0] not in different)}
