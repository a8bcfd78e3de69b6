"""One server for the tests of this folder: the double, or a real one.

    KUBERNETES_UNDER_TEST=~/.kube/config pytest tests/support/kubernetes

holds the same tests against the cluster that the kubeconfig leads to, as its administrator: what they expect is what a
real API server does, and whoever changes the double can see whether it still is. They make namespaces named
`double-…` and CRDs of the group `double.pymesh.io`, and take both away again.
"""

import base64
import os
import shutil
import ssl
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import msgspec
import pytest
import yaml
from lightkube import KubeConfig
from lightkube.config.client_adapter import Client, ConnectionParams

from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.server import ApiServer
from tests.support.waiting import eventually_sync

_REAL = "KUBERNETES_UNDER_TEST"
# Seconds; a real cluster takes its time to end a namespace.
TIMEOUT = 30.0
KUBECTL = shutil.which("kubectl", path=sysconfig.get_path("scripts")) or "kubectl"


@dataclass(slots=True)
class Server:
    """A server under test. `double` is None if it is a real one; `namespace` is of this test module alone.

    `cache` is the folder in which kubectl keeps what it knows of the server.
    """

    kubeconfig: Path
    cache: Path
    http: httpx2.Client
    namespace: str
    double: ApiServer | None

    def trust(self) -> ssl.SSLContext:
        """Who signs for the server, and no client certificate."""
        cluster = yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]
        if path := cluster.get("certificate-authority"):
            return ssl.create_default_context(cafile=self.kubeconfig.parent / path)
        return ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())

    def path(self, plural: str, name: str = "", *, group: str = "", version: str = "v1") -> str:
        """The path of a collection, or an object, in the namespace."""
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def ask(self, method: str, path: str, body: Any = None, *, media: str = "application/json", **query: str) -> "Said":
        """One request; a body that is not bytes is sent as JSON."""
        content = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        headers = {"content-type": media} if content is not None else {}
        accept = {"accept": query.pop("accept")} if "accept" in query else {}
        return Said(self.http.request(method, path, content=content, headers=headers | accept, params=query))

    def get(self, path: str, **query: str) -> "Said":
        """GET."""
        return self.ask("GET", path, **query)

    def create(self, path: str, body: Object, **query: str) -> Object:
        """POST what has to be taken; what came of it."""
        return self.ask("POST", path, body, **query).ok()

    def watch(self, path: str, **query: str) -> list[Object]:
        """The events of a watch of a second."""
        with self.http.stream("GET", path, params={"watch": "true", "timeoutSeconds": "1", **query}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise AssertionError(answer.text)
            return [msgspec.json.decode(line) for line in answer.iter_lines() if line]

    def kubectl(self, *arguments: str, content: str = "") -> subprocess.CompletedProcess[str]:
        """kubectl as a child process, in the namespace."""
        flags = ("--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace, "--cache-dir", str(self.cache))
        return subprocess.run([KUBECTL, *flags, *arguments], input=content, capture_output=True, text=True, timeout=60)

    def settled(self, path: str, code: int) -> None:
        """Wait until a path answers so: a real cluster's controllers need a moment."""
        eventually_sync(lambda: self.get(path).code == code, what=f"{code} of {path}", timeout=TIMEOUT)


class Said:
    """An answer: `code`, `body`."""

    def __init__(self, response: httpx2.Response) -> None:
        self.code = response.status_code
        self.headers = response.headers
        self.text = response.text
        self._content = response.content

    @property
    def body(self) -> Any:
        """The body, which is JSON."""
        return msgspec.json.decode(self._content)

    def ok(self) -> Object:
        """The body of an answer that has to be a success."""
        assert self.code in (200, 201, 202), self.text
        found: Object = self.body
        return found

    @property
    def refusal(self) -> tuple[int, str, str]:
        """Code, reason and message of a Status."""
        assert self.body["kind"] == "Status", self.text
        assert self.body["status"] == "Failure"
        assert self.body["code"] == self.code
        return self.code, self.body.get("reason", ""), self.body["message"]

    @property
    def causes(self) -> list[tuple[str, str]]:
        """Field and reason of each cause of a refusal."""
        return [(each["field"], each["reason"]) for each in self.body["details"]["causes"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a fresh namespace."""
    cache = tmp_path_factory.mktemp("kubectl")
    if real := os.environ.get(_REAL):
        yield from _in_namespace(Path(real), cache, None)
        return
    with ApiServer() as double:
        yield from _in_namespace(double.kubeconfig(), cache, double)


def _in_namespace(kubeconfig: Path, cache: Path, double: ApiServer | None) -> Iterator[Server]:
    config = KubeConfig.from_file(kubeconfig).get()
    assert config
    namespace = f"double-{uuid4().hex[:8]}"
    with Client(config, ConnectionParams(timeout=httpx2.Timeout(10))) as http:
        server = Server(kubeconfig, cache, http, namespace, double)
        server.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        server.settled(f"/api/v1/namespaces/{namespace}/serviceaccounts/default", 200)
        try:
            yield server
        finally:
            server.ask("DELETE", f"/api/v1/namespaces/{namespace}")
