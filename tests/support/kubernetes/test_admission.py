"""Webhooks are really called: over TLS, by their Service's name, in order, for what they ask for and nothing else.

Only against the double: a real API server cannot reach a process of a test.
"""

import base64
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.support import threaded
from tests.support.certificates import Authority
from tests.support.echo import EchoServer
from tests.support.kubernetes.conftest import Said, Server
from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.server import ApiServer

GROUP = "/apis/admissionregistration.k8s.io/v1"
MUTATING, VALIDATING = f"{GROUP}/mutatingwebhookconfigurations", f"{GROUP}/validatingwebhookconfigurations"
CREATE = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}


@dataclass
class Hook:
    """A webhook's process. `answers` come in their order, the last one for ever; `asked` are the requests."""

    authority: Authority
    port: int = 0
    asked: list[Object] = field(default_factory=list)
    answers: list[Object] = field(default_factory=lambda: [{"allowed": True}])

    @property
    def bundle(self) -> str:
        """Who signs for it."""
        return base64.b64encode(self.authority.root).decode()

    def handle(self, body: bytes) -> bytes:
        """One review."""
        request = json.loads(body)["request"]
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        response = {"uid": request["uid"], **answer}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        return json.dumps(review).encode()


def patch(*operations: Object) -> Object:
    """A response that changes the object."""
    text = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": text}


def add_label(name: str) -> Object:
    return patch({"op": "add", "path": f"/metadata/labels/{name}", "value": "yes"})


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that trust somebody else."""

    def handle_error(self, request: object, client_address: object) -> None:
        """See socketserver."""


@contextmanager
def serving(hook: Hook, folder: Path) -> Iterator[None]:
    """The webhook over TLS, as hook.hooks.svc."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = hook.handle(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *arguments: Any) -> None:
            pass

    issued = hook.authority.issue(dns=("hook.hooks.svc",))
    (folder / "hook.pem").write_bytes(issued.chain + issued.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "hook.pem")
    listening = Quiet(("127.0.0.1", 0), Handler)
    listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    with threaded.serving(listening) as server:
        hook.port = server.port
        yield


@pytest.fixture
def hook(server: Server, tmp_path: Path) -> Iterator[Hook]:
    """A webhook that is reached by Service hooks/hook."""
    if server.double is None:
        pytest.skip("a real API server cannot reach a process of a test")
    made = Hook(Authority("webhooks"))
    server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "hooks"}})
    service = {"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}}
    server.ask("POST", "/api/v1/namespaces/hooks/services", service)
    with serving(made, tmp_path):
        server.double.route("hooks", "hook", 443, ("127.0.0.1", made.port))
        yield made
    for path in (MUTATING, VALIDATING):
        server.ask("DELETE", path)


def register(server: Server, path: str, hook: Hook, name: str = "a", **fields: Any) -> None:
    """A configuration with one webhook, for new ConfigMaps unless `fields` say otherwise."""
    webhook = {
        "name": f"{name}.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": [CREATE],
        "clientConfig": {"service": {"name": "hook", "namespace": "hooks", "path": "/x"}, "caBundle": hook.bundle},
    }  # fmt: skip
    server.create(path, {"metadata": {"name": f"config-{name}"}, "webhooks": [webhook | fields]})


def making(server: Server, name: str, labels: Object | None = None, **query: str) -> Said:
    body = {"metadata": {"name": name, "labels": labels or {"some": "label"}}}
    return server.ask("POST", server.path("configmaps"), body, **query)


def test_what_a_webhook_is_told(server: Server, hook: Hook) -> None:
    register(server, VALIDATING, hook)
    assert making(server, "told", dryRun="All", fieldManager="me").code == 201
    [request] = hook.asked
    assert request["kind"] == request["requestKind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert request["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert (request["operation"], request["name"], request["namespace"]) == ("CREATE", "told", server.namespace)
    assert request["userInfo"]["username"] == "kubernetes-admin"
    assert (request["dryRun"], request["oldObject"]) == (True, None)
    assert request["object"]["metadata"]["labels"] == {"some": "label"}


def test_mutating_webhooks_come_in_the_order_of_their_names_and_may_be_asked_again(server: Server, hook: Hook) -> None:
    register(server, MUTATING, hook, "b")
    register(server, MUTATING, hook, "a", reinvocationPolicy="IfNeeded")
    hook.answers = [add_label("n1"), add_label("n2"), add_label("n3")]
    assert making(server, "mutated").ok()["metadata"]["labels"] == {
        "some": "label",
        "n1": "yes",
        "n2": "yes",
        "n3": "yes",
    }
    hook.asked.clear()
    hook.answers = [{"allowed": True}]
    assert making(server, "unchanged").code == 201
    assert len(hook.asked) == 2


def test_a_refusal_is_the_clients_answer(server: Server, hook: Hook) -> None:
    register(server, VALIDATING, hook)
    status = {"code": 422, "reason": "Invalid", "message": "not this one", "details": {"kind": "ConfigMap"}}
    hook.answers = [{"allowed": False, "status": status, "warnings": ["look out"]}]
    said = making(server, "refused")
    assert said.refusal == (422, "Invalid", 'admission webhook "a.example.com" denied the request: not this one')
    assert server.get(server.path("configmaps", "refused")).code == 404
    hook.answers = [{"allowed": False}]
    assert making(server, "refused").refusal[2] == (
        'admission webhook "a.example.com" denied the request without explanation'
    )
    hook.answers = [{"allowed": True, "warnings": ["look out"]}]
    assert making(server, "warned").headers["warning"] == '299 - "look out"'


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, True),
        ({"rules": [CREATE | {"operations": ["UPDATE"]}]}, False),
        ({"rules": [CREATE | {"resources": ["*"], "operations": ["*"], "apiGroups": ["*"]}]}, True),
        ({"rules": [CREATE | {"resources": ["configmaps/status"]}]}, False),
        ({"rules": [CREATE | {"scope": "Cluster"}]}, False),
        ({"objectSelector": {"matchLabels": {"some": "label"}}}, True),
        ({"objectSelector": {"matchExpressions": [{"key": "some", "operator": "DoesNotExist"}]}}, False),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}, False),
        ({"matchConditions": [{"name": "a", "expression": "request.name == 'selected'"}]}, True),
        ({"matchConditions": [{"name": "a", "expression": "request.name != 'selected'"}]}, False),
    ],
)
def test_a_webhook_hears_of_what_it_selects(server: Server, hook: Hook, fields: Object, asked: bool) -> None:
    register(server, VALIDATING, hook, **fields)
    assert making(server, "selected", dryRun="All").code == 201
    assert bool(hook.asked) is asked


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"clientConfig": {"service": {"name": "none", "namespace": "hooks"}}}, 'service "none" not found'),
        ({"clientConfig": {"service": {"name": "hook", "namespace": "hooks", "port": 8443}}},
         "no service port 8443 found"),
        ({"clientConfig": {"service": {"name": "hook", "namespace": "hooks"}, "caBundle": base64.b64encode(
            Authority("other").root).decode()}}, "tls: failed to verify certificate"),
        ({"clientConfig": {"service": {"name": "hook", "namespace": "hooks"}}}, "tls: failed to verify certificate"),
    ],
)  # fmt: skip
def test_a_webhook_that_fails_refuses_or_is_ignored(server: Server, hook: Hook, fields: Object, words: str) -> None:
    register(server, VALIDATING, hook, failurePolicy="Fail", **fields)
    code, reason, message = making(server, "failing", dryRun="All").refusal
    assert (code, reason) == (500, "InternalError")
    assert 'failed calling webhook "a.example.com": failed to call webhook' in message
    assert words in message
    server.ask("DELETE", VALIDATING)
    register(server, VALIDATING, hook, failurePolicy="Ignore", **fields)
    assert making(server, "failing", dryRun="All").code == 201
    assert not hook.asked


@pytest.mark.parametrize("answer", [{"uid": "another"}, {"patch": "e30="}, {"uid": None}])
def test_an_answer_that_is_none_is_a_failure(server: Server, hook: Hook, answer: Object) -> None:
    register(server, MUTATING, hook, failurePolicy="Fail")
    hook.answers = [{"allowed": True, **answer}]
    assert making(server, "answered", dryRun="All").refusal[:2] == (500, "InternalError")


def test_every_version_goes_to_a_webhook_in_the_version_that_it_wants(server: Server, hook: Hook) -> None:
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "resources": ["deployments"],
        "operations": ["UPDATE", "DELETE"],
    }
    register(server, VALIDATING, hook, rules=[rule])
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    path = server.path("deployments", group="apps")
    body = {"metadata": {"name": "seen"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": pod}}
    server.create(path, body)
    merge = "application/merge-patch+json"
    server.ask("PATCH", f"{path}/seen", {"spec": {"paused": True}}, media=merge).ok()
    server.ask("DELETE", f"{path}/seen").ok()
    assert [(each["operation"], bool(each["object"]), bool(each["oldObject"])) for each in hook.asked] == [
        ("UPDATE", True, True), ("DELETE", False, True),
    ]  # fmt: skip


def test_a_pod_is_looked_after_again_when_a_webhook_has_changed_it(server: Server, hook: Hook) -> None:
    register(server, MUTATING, hook, rules=[CREATE | {"resources": ["pods"]}])
    hook.answers = [patch({"op": "add", "path": "/spec/initContainers", "value": [{"name": "added", "image": "a:1"}]})]
    body = {"metadata": {"name": "changed"}, "spec": {"containers": [{"name": "app", "image": "a:1"}]}}
    spec = server.create(server.path("pods"), body)["spec"]
    [added] = spec["initContainers"]
    assert added["imagePullPolicy"] == "IfNotPresent", "defaults come after webhooks, too"
    assert [each["mountPath"] for each in added["volumeMounts"]] == ["/var/run/secrets/kubernetes.io/serviceaccount"]
    assert len(spec["volumes"]) == 1
    told = hook.asked[0]["object"]["spec"]
    assert told["serviceAccountName"] == "default"
    assert len(told["containers"][0]["volumeMounts"]) == 1, "webhooks see what the plugins have made of it"


async def test_a_port_of_a_pod_is_forwarded(server: Server) -> None:
    if server.double is None:
        pytest.skip("nothing runs in this pod")
    made = {"metadata": {"name": "ported"}, "spec": {"containers": [{"name": "app", "image": "a:1"}]}}
    server.create(server.path("pods"), made)
    with EchoServer("in the pod") as echo:
        server.double.forward(server.namespace, "ported", 8080, ("127.0.0.1", echo.port))
        async with _forwarding(server.double, server.path("pods", "ported/portforward"), 8080) as socket:
            assert [await socket.recv(), await socket.recv()] == [b"\x00\x90\x1f", b"\x01\x90\x1f"]
            await socket.send(b"\x00GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            heard = b"".join([each[1:] async for each in socket if isinstance(each, bytes)])
            assert b"in the pod" in heard
    async with _forwarding(server.double, server.path("pods", "ported/portforward"), 9) as socket:
        messages = [each async for each in socket if isinstance(each, bytes)]
        assert messages[2].startswith(b"\x01error forwarding port 9 to pod ported")


def _forwarding(double: ApiServer, path: str, port: int) -> connect:
    trust = ssl.create_default_context(cadata=double.authority.root.decode())
    return connect(
        f"wss://127.0.0.1:{double.port}{path}?ports={port}", ssl=trust, subprotocols=[Subprotocol("v4.channel.k8s.io")],
        additional_headers={"authorization": f"Bearer {double.admin_token}"}, open_timeout=5,
    )  # fmt: skip


def test_a_client_certificate_is_as_good_as_a_token(server: Server) -> None:
    if server.double is None:
        pytest.skip("not ours to sign for")
    for groups, code in ((("system:masters",), 0), ((), 1)):
        config = server.double.certificate_kubeconfig("joe", groups)
        other = replace(server, kubeconfig=config)
        done = other.kubectl("get", "configmaps")
        assert done.returncode == code
        assert code == 0 or 'User "joe" cannot list resource "configmaps"' in done.stderr
