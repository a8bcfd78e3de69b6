"""Port 15017 over real TLS: the certificate, connections that are kept, questions that cannot be answered."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from pymesh_controlplane.citadel import serving
from pymesh_controlplane.galley import webhook as galley
from pymesh_controlplane.webhooks import admission, bounds, server
from tests.controlplane.pilot.worlds import service
from tests.controlplane.webhooks.harness import ABOUT_POD, ABOUT_ROUTE, POD, ROUTE, Clock, Running, running
from tests.controlplane.webhooks.reviews import UID, patch_of, request, review
from tests.support.waiting import DEADLINE, eventually


@pytest.fixture
async def mesh() -> AsyncIterator[Running]:
    async with running() as found:
        found.worlds.become(service("reviews"))
        await eventually(lambda: found.webhooks.waiting() == "")
        yield found


async def test_a_pod_gets_its_sidecar_and_a_resource_its_verdict_on_one_connection(mesh: Running) -> None:
    caller = await mesh.caller()
    code, body = await caller.post("/inject?timeout=10s", ABOUT_POD)
    assert (code, body["kind"], body["apiVersion"]) == (200, "AdmissionReview", "admission.k8s.io/v1")
    response = body["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == (UID, True, "JSONPatch")
    assert any(each["path"].startswith("/spec/initContainers") for each in patch_of(json.dumps(body).encode()))
    code, body = await caller.post("/validate?timeout=10s", ABOUT_ROUTE)
    assert (code, body["response"]) == (200, {"uid": UID, "allowed": True})
    wrong = ROUTE | {"spec": ROUTE["spec"] | {"htpp": []}}
    code, body = await caller.post("/validate?timeout=10s", review(request("VirtualService", wrong)))
    assert code == 200
    assert not body["response"]["allowed"]
    sentence = "VirtualService default/reviews: spec.htpp: unknown field 'htpp' in spec; did you mean 'http'?"
    assert (body["response"]["status"]["message"], body["response"]["status"]["code"]) == (sentence, 422)
    assert mesh.webhooks.metrics.counted("inject", "patched") == 1
    await caller.close()


@pytest.mark.parametrize(
    "host", [f"{name}.pymesh-system.svc{end}" for name in ("injector", "galley") for end in ("", ".cluster.local")]
)
async def test_the_certificate_is_of_the_mesh_and_for_both_services(mesh: Running, host: str) -> None:
    caller = await mesh.caller(host=host)
    await caller.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await mesh.caller(host="pilot.pymesh-system.svc")


async def test_old_tls_is_not_spoken(mesh: Running) -> None:
    context = ssl.create_default_context(cadata=mesh.authority.root_pem)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", mesh.port, ssl=context, server_hostname="galley.pymesh-system.svc")


async def test_a_new_certificate_leaves_the_connections_there_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    due = asyncio.Event()

    async def wait_until_due(_: asyncio.Event, __: float) -> None:
        await due.wait()
        due.clear()

    monkeypatch.setattr(serving, "wait", wait_until_due)
    clock = Clock(datetime.now(UTC) - timedelta(hours=12))
    async with running(clock) as mesh:
        before = await mesh.caller()
        shown = before.certificate

        async def shown_now() -> bytes:
            caller = await mesh.caller()
            await caller.close()
            return caller.certificate

        assert await shown_now() == shown
        clock.now += timedelta(hours=12)
        due.set()
        await eventually(lambda: not due.is_set())
        after = await shown_now()
        ends = [x509.load_der_x509_certificate(each).not_valid_after_utc for each in (shown, after)]
        assert ends[1] - ends[0] == timedelta(hours=12)
        assert (await before.post("/inject", ABOUT_POD))[0] == 200
        await before.close()


# --- what cannot be answered ----------------------------------------------------------------------------------------


async def test_before_the_world_is_known_galley_fails_loudly_and_the_injector_does_not() -> None:
    async with running() as mesh:
        caller = await mesh.caller()
        assert mesh.webhooks.waiting() == "galley waits for the configuration to be read"
        code, body = await caller.post("/validate", ABOUT_ROUTE)
        assert (code, body["kind"], body["reason"]) == (503, "Status", "ServiceUnavailable")
        assert body["message"] == "galley waits for the configuration to be read: try again"
        assert (await caller.post("/inject", ABOUT_POD))[0] == 200
        await caller.close()


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", 400, "no AdmissionReview"),
        (b"[]", 400, "no AdmissionReview"),
        (b"\xff{", 400, "no AdmissionReview"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}', 400, "no AdmissionReview"),
        (
            b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","request":{}}',
            400,
            "not AdmissionReview",
        ),
        (b"[" * 100_000, 400, "no AdmissionReview"),
        (review(request("Pod", POD, uid="")), 400, "uid"),
        (review(request("Pod", POD, uid=7)), 400, "request.uid"),
        (review(request("Pod", POD, operation="EXPLODE")), 400, "operation"),
        (review(request("Pod", None, operation="CREATE")), 400, "has an object"),
        (review(request("ConfigMap", POD)), 400, "ConfigMap of v1"),
        (b" " * (admission.MAX_BODY + 1), 413, "more than"),
    ],
)
async def test_what_is_no_review_gets_a_status(mesh: Running, body: bytes, code: int, words: str) -> None:
    caller = await mesh.caller()
    found, status = await caller.post("/inject", body)
    assert (found, status["kind"], status["status"], status["code"]) == (code, "Status", "Failure", code)
    assert words in status["message"]
    assert mesh.webhooks.metrics.counted("inject", "failed") == 1
    await caller.close()


async def test_nesting_is_bounded_in_the_object_as_well(mesh: Running) -> None:
    caller = await mesh.caller()
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    body = ABOUT_POD.replace(b'"oldObject": null', b'"oldObject": ' + deep)
    code, status = await caller.post("/inject", body)
    assert (code, status["message"]) == (400, "the review is nested deeper than 100 levels")
    await caller.close()


async def test_only_json_is_read(mesh: Running) -> None:
    caller = await mesh.caller()
    code, status = await caller.post("/inject", ABOUT_POD, media_type="text/yaml")
    assert (code, status["message"]) == (415, "send an AdmissionReview as application/json")
    await caller.close()


async def test_a_mistake_of_ours_shows_no_traceback_and_ends_nothing(
    mesh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("/a/path/of/ours")

    monkeypatch.setattr("pymesh_controlplane.webhooks.server.injector.answer", broken)
    caller = await mesh.caller()
    code, status = await caller.post("/inject", ABOUT_POD)
    assert (code, status["reason"]) == (500, "InternalError")
    assert "path" not in status["message"]
    monkeypatch.undo()
    assert (await caller.post("/inject", ABOUT_POD))[0] == 200
    await caller.close()


@contextlib.contextmanager
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A judge that thinks for as long as the block lasts; the event says that it has begun to."""
    thinking, done = threading.Event(), threading.Event()

    def think(*_: object) -> admission.Answer:
        thinking.set()
        done.wait()
        return admission.ALLOWED

    monkeypatch.setattr(galley.Judge, "answer", think)
    try:
        yield thinking
    finally:
        done.set()


async def test_a_slow_judge_is_given_up_in_time_and_keeps_nobody_else_waiting(
    mesh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stuck(monkeypatch) as thinking:
        asking, other = await mesh.caller(), await mesh.caller()
        late = asyncio.get_running_loop().create_task(asking.post("/validate?timeout=1s", ABOUT_ROUTE))
        await eventually(thinking.is_set)
        assert (await other.post("/inject", ABOUT_POD))[0] == 200
        code, status = await late
        assert (code, status["reason"]) == (504, "Timeout")
        await asking.close()
        await other.close()


async def test_who_comes_when_too_many_wait_is_told_so(mesh: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_WAITING", 1)
    with stuck(monkeypatch) as thinking:
        asking, other = await mesh.caller(), await mesh.caller()
        late = asyncio.get_running_loop().create_task(asking.post("/validate?timeout=2s", ABOUT_ROUTE))
        await eventually(thinking.is_set)
        code, status = await other.post("/validate", ABOUT_ROUTE)
        assert (code, status["message"]) == (503, "1 requests wait already: try again")
        assert (await late)[0] == 504
        assert 'turned_away_total{limit="queue",webhook="validate"} 1.0' in mesh.numbers()
        await asking.close()
        await other.close()


async def test_bodies_that_are_held_share_one_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_BODIES", len(ABOUT_POD) + 100)
    head = "POST /inject HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n"
    async with running() as mesh:
        slow, other = await mesh.caller(), await mesh.caller()
        await slow.send(head.encode() + b" " * 101)

        async def refused() -> bool:
            caller = await mesh.caller()
            code, status = await caller.post("/inject", ABOUT_POD)
            if code == 200:
                await caller.close()
                return False
            assert (code, status["kind"], status["reason"]) == (503, "Status", "ServiceUnavailable")
            assert status["message"] == f"the requests under way have {len(ABOUT_POD) + 100} bytes already: try again"
            assert await caller.at_end()
            return True

        async with asyncio.timeout(DEADLINE):
            while not await refused():
                pass
        assert 'turned_away_total{limit="bytes",webhook="inject"} 1.0' in mesh.numbers()
        await slow.send(b" " * 99)
        assert (await slow.answer())[0] == 400
        assert (await other.post("/inject", ABOUT_POD))[0] == 200
        await slow.close()
        await other.close()


async def test_room_is_given_back_by_those_who_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_BODIES", len(ABOUT_POD))
    head = "POST /inject HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n"
    async with running() as mesh:
        slow = await mesh.caller()
        await slow.send(head.encode() + b" ")
        await slow.close()
        await eventually(lambda: mesh.webhooks.metrics.counted("inject", "failed") == 1)
        caller = await mesh.caller()
        assert (await caller.post("/inject", ABOUT_POD))[0] == 200
        await caller.close()


async def test_who_does_not_speak_is_let_go(mesh: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymesh_controlplane.debug.REQUEST_TIMEOUT", 0.2)
    caller = await mesh.caller()
    await caller.send(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
    await caller.send(b"content-length: 100\r\n\r\n{")
    assert await caller.at_end()
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 0.2)
    async with running() as other:
        reader, writer = await asyncio.open_connection("127.0.0.1", other.port)
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


# --- what may be on its way -----------------------------------------------------------------------------------------


async def test_what_was_stored_a_moment_before_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 60.0)
    verdicts: list[admission.Answer] = []
    judged = galley.Judge.answer

    def noted(*asked: Any) -> admission.Answer:
        verdicts.append(judged(*asked))
        return verdicts[-1]

    monkeypatch.setattr(galley.Judge, "answer", noted)
    async with running() as mesh:
        mesh.worlds.become(service("other"))
        await eventually(lambda: mesh.webhooks.waiting() == "")
        caller = await mesh.caller()
        asked = asyncio.get_running_loop().create_task(caller.post("/validate", ABOUT_ROUTE))
        await eventually(lambda: [verdict.dangling for verdict in verdicts] == [True])
        mesh.worlds.become(service("other"), service("reviews"))
        assert (await asked)[1]["response"] == {"uid": UID, "allowed": True}
        await caller.close()


async def test_what_does_not_come_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.05)
    async with running() as mesh:
        mesh.worlds.become(service("other"))
        await eventually(lambda: mesh.webhooks.waiting() == "")
        caller = await mesh.caller()
        _, body = await caller.post("/validate", ABOUT_ROUTE)
        assert body["response"]["allowed"]
        [_, warning] = body["response"]["warnings"]
        assert "there is no service reviews.default.svc.cluster.local" in warning
        await caller.close()


async def test_worlds_that_come_and_come_do_not_put_a_verdict_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    judged = galley.Judge.answer
    async with running() as mesh:
        loop = asyncio.get_running_loop()
        mesh.worlds.become(service("other"))
        await eventually(lambda: mesh.webhooks.waiting() == "")

        def while_the_world_changes(*asked: Any) -> admission.Answer:
            loop.call_soon_threadsafe(mesh.worlds.become, service("other"))
            time.sleep(0.05)  # a judge that is slower than the changes
            return judged(*asked)

        monkeypatch.setattr(galley.Judge, "answer", while_the_world_changes)
        caller = await mesh.caller()
        code, body = await caller.post("/validate?timeout=5s", ABOUT_ROUTE)
        assert (code, body["response"]["allowed"]) == (200, True)
        await caller.close()


async def test_its_numbers_have_the_names_that_dashboards_ask_for(mesh: Running) -> None:
    caller = await mesh.caller()
    await caller.post("/inject", ABOUT_POD)
    await caller.post("/validate", b"{}")
    lines = mesh.numbers().splitlines()
    for line in (
        'controlplane_webhook_requests_total{outcome="patched",webhook="inject"} 1.0',
        'controlplane_webhook_requests_total{outcome="failed",webhook="validate"} 1.0',
        'controlplane_webhook_duration_seconds_count{webhook="inject"} 1.0',
        "sidecar_injection_success_total 1.0",
        "galley_validation_failed 1.0",
    ):
        assert line in lines
    await caller.close()


async def test_at_the_end_what_is_under_way_is_answered() -> None:
    async with running() as mesh:
        caller = await mesh.caller()
        await caller.post("/inject", ABOUT_POD)
        body = ABOUT_POD
        head = (
            f"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        await caller.send(head.encode() + body)
    assert (await caller.answer())[0] == 200
    assert await caller.at_end()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", mesh.port)) != 0
