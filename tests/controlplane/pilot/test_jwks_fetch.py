"""Fetching keys from a real server, which may answer anything."""

import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import pytest

from pymesh.jwks import MAX_BYTES
from pymesh.resources.istio.request_authentication import KeySource
from pymesh_controlplane.pilot.jwks import FetchError
from pymesh_controlplane.pilot.jwks_fetch import DISCOVERY, fetch
from tests.support.threaded import serving

KEYS: Final = b'{"keys":[]}'


class Issuer(ThreadingHTTPServer):
    """Answers what stands for a path; `BASE` in it is its own address. Status, then headers, then the body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.hold = threading.Event()
        self.pages: Mapping[str, tuple[int, Mapping[str, str], bytes]] = {
            "/keys": (200, {}, KEYS),
            f"/good{DISCOVERY}": (200, {}, b'{"issuer":"BASE/good","jwks_uri":"BASE/keys"}'),
            f"/slash{DISCOVERY}": (200, {}, b'{"issuer":"BASE/slash/","jwks_uri":"BASE/keys"}'),
            f"/other{DISCOVERY}": (200, {}, b'{"issuer":"BASE/good","jwks_uri":"BASE/keys"}'),
            f"/silent{DISCOVERY}": (200, {}, b'{"issuer":"BASE/silent"}'),
            f"/text{DISCOVERY}": (200, {}, b"hello"),
            f"/file{DISCOVERY}": (200, {}, b'{"issuer":"BASE/file","jwks_uri":"file:///etc/passwd"}'),
            "/moved": (302, {"location": "/keys"}, b""),
            "/round": (302, {"location": "/round"}, b""),
            "/away": (302, {"location": "file:///etc/passwd"}, b""),
            "/large": (200, {}, b" " * (MAX_BYTES + 1)),
            "/broken": (503, {}, b"secret"),
        }


class _Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.server.hold.wait(10)
            return
        status, headers, body = self.server.pages.get(self.path, (404, {}, b""))
        body = body.replace(b"BASE", self.server.address.encode())
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    server = Issuer()
    with serving(server):
        yield server
        server.hold.set()


@pytest.mark.parametrize(("name", "path"), [("", "/keys"), ("", "/moved"), ("/good", ""), ("/slash/", "")])
async def test_keys_are_fetched_from_where_they_are(name: str, path: str, issuer: Issuer) -> None:
    source = KeySource(issuer.address + name, issuer.address + path if path else "")
    assert await fetch(source, 5.0) == KEYS


@pytest.mark.parametrize(
    ("name", "path", "reason"),
    [
        ("", "/gone", "/gone answered 404"),
        ("", "/broken", "/broken answered 503"),
        ("", "/large", f"/large: more than {MAX_BYTES} bytes"),
        ("", "/round", "/round: "),
        ("", "/away", "/away: "),
        ("/nowhere", "", f"/nowhere{DISCOVERY} answered 404"),
        ("/other", "", f"/other{DISCOVERY} speaks of another issuer"),
        ("/silent", "", f"/silent{DISCOVERY} does not say where the keys are (jwks_uri)"),
        ("/text", "", f"/text{DISCOVERY}: Expecting value"),
        ("/file", "", "the address of the keys is not http or https"),
    ],
)
async def test_what_cannot_be_fetched_says_why_and_nothing_of_the_answer(
    name: str, path: str, reason: str, issuer: Issuer
) -> None:
    with pytest.raises(FetchError) as error:
        await fetch(KeySource(issuer.address + name, issuer.address + path if path else ""), 5.0)
    assert reason in str(error.value)
    assert "secret" not in str(error.value)


async def test_nobody_is_waited_for_longer_than_was_said(issuer: Issuer) -> None:
    with pytest.raises(FetchError, match=r"no answer within 0\.05 s"):
        await fetch(KeySource("", f"{issuer.address}/slow"), 0.05)


async def test_where_nobody_is_that_is_said() -> None:
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:1/keys: "):
        await fetch(KeySource("", "http://127.0.0.1:1/keys"), 5.0)
