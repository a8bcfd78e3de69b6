"""Lists for commands, at a server that answers what a right one rarely does."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from pymesh.resources.documents import MAX_DEPTH
from pymesh.resources.nesting import is_deeper
from pymesh_controlplane.kube.api import Api, ApiError
from pymesh_controlplane.kube.kubeconfig import load
from tests.support.threaded import serving

Query = Mapping[str, str]
EXPIRED = b'{"kind": "Status", "code": 410, "reason": "Expired", "message": "the continue token has expired"}'


class Server(ThreadingHTTPServer):
    """Gives its answers one after the other, and the last one again and again."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.asked: list[Query] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(dict(parse_qsl(urlsplit(self.path).query)))
        code, body = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in the base class
        """Requests are in `asked`."""


@contextmanager
def answering(folder: Path, *answers: tuple[int, bytes]) -> Iterator[tuple[Api, list[Query]]]:
    """An API server that answers so, and what it was asked for."""
    server = Server(*answers)
    file = folder / "config"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "test", "context": {"cluster": "c"}}],
        "current-context": "test",
    }
    file.write_text(yaml.safe_dump(config))
    with serving(server), Api(load([file])) as api:
        yield api, server.asked


def items(*names: str, rest: str = "") -> tuple[int, bytes]:
    found = [{"metadata": {"name": name}} for name in names]
    page = {"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": rest}, "items": found}
    return 200, json.dumps(page).encode()


def test_a_list_of_which_a_part_comes_too_late_is_asked_for_in_one(tmp_path: Path) -> None:
    with answering(tmp_path, items("a", rest="t"), (410, EXPIRED), items("a", "b")) as (api, asked):
        found = api.items("/api/v1/pods", labelSelector="app=web")
        assert [item["metadata"]["name"] for item in found] == ["a", "b"]
    assert [(query["labelSelector"], query.get("limit"), query.get("continue")) for query in asked] == [
        ("app=web", "500", None), ("app=web", "500", "t"), ("app=web", None, None),
    ]  # fmt: skip


def test_a_server_that_knows_no_version_at_all_is_asked_twice(tmp_path: Path) -> None:
    with answering(tmp_path, (410, EXPIRED)) as (api, asked), pytest.raises(ApiError, match="has expired"):
        api.items("/api/v1/pods")
    assert len(asked) == 2


def test_an_object_that_is_nested_too_deep_does_not_hide_the_others(tmp_path: Path) -> None:
    code, page = items("deep", "good")
    deep = page.replace(b'"name": "deep"', b'"name": "deep", "x": ' + b"[" * 5_000 + b"]" * 5_000)
    with answering(tmp_path, (code, deep)) as (api, _):
        bad, good = api.items("/api/v1/pods")
    assert good["metadata"]["name"] == "good"
    assert (bad["metadata"]["name"], is_deeper(bad, MAX_DEPTH)) == ("deep", True)
