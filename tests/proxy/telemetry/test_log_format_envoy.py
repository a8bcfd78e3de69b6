"""The same formats in a real Envoy: it knows every operator, and writes the same values."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from pymesh.access_log_formats import ISTIO_JSON_FORMAT, ISTIO_TEXT_FORMAT
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.telemetry.log_lines import OPERATORS, made, route
from tests.support.envoy import envoy_process
from tests.support.waiting import eventually

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
FILE = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
ROUTER = "envoy.extensions.filters.http.router.v3.Router"

# Literals, lengths, both ways to give a time, values that are missing, and every operator that we have.
JSON_FORMAT = {
    **{operator: f"%{operator}%" for operator in OPERATORS},
    **ISTIO_JSON_FORMAT,
    "mixed": "a %RESPONSE_CODE%%% %REQ(NONE)% %REQ(X-A):3% b",
    "day": "%START_TIME(%Y-%m-%d %%)%",
    "literal": "word",
    "utf8": "%REQ(X-UTF8)%",
    "empty": "%REQ(X-EMPTY)%|%REQ(X-EMPTY?X-A)%",
}
# Moments, and ports that the kernel chose.
VARYING = {"start_time", "START_TIME", "duration", "DURATION"}
REQUEST = (
    b"GET /there?a=b HTTP/1.1\r\nHost: reviews:9080\r\nX-A: abcdef\r\nX-UTF8: \xc3\xa4\t\"x\r\nX-Empty:\r\n"
    b"User-Agent: me\r\nX-Request-Id: c71d8373-8fc8-47c4-a78c-6da865f0487d\r\nX-Forwarded-Proto: https\r\n"
)  # fmt: skip


def typed(name: str, **fields: object) -> dict[str, object]:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{name}", **fields}}


def bootstrap(port: int, text: Path, lines: Path) -> str:
    logs = [
        typed(FILE, path=str(text), log_format={"text_format_source": {"inline_string": ISTIO_TEXT_FORMAT}}),
        typed(FILE, path=str(lines), log_format={"json_format": JSON_FORMAT}),
    ]
    route = {
        "name": "here",
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": "no"}},
    }
    manager = typed(
        MANAGER,
        stat_prefix="x",
        access_log=logs,
        http_filters=[typed(ROUTER)],
        route_config={"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
    )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"name": "l", "address": address, "filter_chains": [{"filters": [manager]}]}
    return json.dumps({"static_resources": {"listeners": [listener]}})


def ours(local: str, remote: str) -> RequestRecord:
    """What our side would have recorded of the same request."""
    found = RequestRecord(Facts("outbound", remote, local), 0.0, 1.0)
    head = parse_request(REQUEST + b"\r\n")
    assert head is not None
    found.headers = head[0]
    found.said = (b"GET", b"reviews:9080", b"/there?a=b")
    found.status, found.details, found.matched = 404, "direct_response", route("here")
    found.bytes_sent = 2
    return found


@pytest.mark.envoy
async def test_a_real_envoy_writes_the_same(tmp_path: Path) -> None:
    text, lines = tmp_path / "text.log", tmp_path / "json.log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with envoy_process(bootstrap(port, text, lines), tmp_path):
        reader, writer = await eventually(lambda: asyncio.open_connection("127.0.0.1", port), what="Envoy's listener")
        remote = "127.0.0.1:{}".format(writer.get_extra_info("sockname")[1])
        writer.write(REQUEST + b"Connection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 404 Not Found")
        writer.close()
        await eventually(lambda: lines.exists() and lines.read_text().endswith("\n"), what="a line", timeout=20)
    record = ours(f"127.0.0.1:{port}", remote)
    theirs = json.loads(lines.read_text())
    own = json.loads(made(JSON_FORMAT, record))
    theirs["day"], own["day"] = theirs["day"][-2:], own["day"][-2:]
    assert list(theirs) == list(own)  # sorted alike
    assert {key: value for key, value in theirs.items() if key not in VARYING} == {
        key: value for key, value in own.items() if key not in VARYING
    }
    assert text.read_text().split()[1:9] == made(ISTIO_TEXT_FORMAT, record).split()[1:9]
