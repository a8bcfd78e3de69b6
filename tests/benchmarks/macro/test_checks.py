"""The load on an ext_authz server, against servers of grpcio that answer, refuse and fail."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse

from benchmarks.macro import certificates, checks
from benchmarks.macro.checks import Asked, Sidecar
from pymesh.policy_api import CHECK_METHOD, CHECK_SERVICE

ALLOWED = CheckResponse(ok_response=OkHttpResponse())
DENIED = CheckResponse(denied_response=DeniedHttpResponse(body="no"))
Answer = Callable[[CheckRequest, grpc.ServicerContext], CheckResponse]


@contextmanager
def server(folder: Path, answer: Answer) -> Iterator[int]:
    """A port on which `answer` answers."""
    certificates.write(folder)
    method = grpc.unary_unary_rpc_method_handler(answer, CheckRequest.FromString, CheckResponse.SerializeToString)
    chain, key, root = ((folder / name).read_bytes() for name in ("server.pem", "server.key", "root.pem"))
    credentials = grpc.ssl_server_credentials([(key, chain)], root, require_client_auth=True)
    with ThreadPoolExecutor(2) as pool:
        running = grpc.server(pool)
        running.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(CHECK_SERVICE, {CHECK_METHOD: method})])
        port = running.add_secure_port("127.0.0.1:0", credentials)
        running.start()
        try:
            yield port
        finally:
            running.stop(None).wait()


def test_every_question_is_one_that_the_service_can_read_and_every_good_answer_counts(tmp_path: Path) -> None:
    asked: list[CheckRequest] = []

    def answer(request: CheckRequest, _: grpc.ServicerContext) -> CheckResponse:
        asked.append(request)
        return ALLOWED

    with server(tmp_path, answer) as port:
        found = checks.run(Asked(port, tmp_path, connections=2, streams=3, seconds=1))
    assert found.errors == {}
    assert found.answers == len(asked) > 6
    assert found.seconds == pytest.approx(1, abs=1)
    assert all(request == asked[0] for request in asked)
    assert asked[0].attributes.request.http.headers["user-agent"]
    assert asked[0].attributes.context_extensions["pymesh.rules"] == checks.RULE


def test_refusals_and_failures_are_errors_by_kind(tmp_path: Path) -> None:
    numbers = itertools.count()

    def answer(_: CheckRequest, context: grpc.ServicerContext) -> CheckResponse:
        number = next(numbers)
        if number % 3 == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        return DENIED if number % 3 == 2 else ALLOWED

    with server(tmp_path, answer) as port:
        found = checks.run(Asked(port, tmp_path, connections=1, streams=2, seconds=1))
    asked = next(numbers)
    assert found.answers == len(range(0, asked, 3))
    assert found.errors["refused"] == len(range(2, asked, 3))
    assert found.errors["status"] >= len(range(1, asked, 3))


def test_frames_are_understood_wherever_the_bytes_are_cut() -> None:
    message = b"\0" + len(ALLOWED.SerializeToString()).to_bytes(4, "big") + ALLOWED.SerializeToString()
    answer = checks.frame(4, 0, 0) + checks.frame(1, 4, 1, b"\x88") + checks.frame(0, 0, 1, message)
    answer += checks.frame(6, 0, 0, b"12345678") + checks.frame(1, 5, 1, b"\x80") + checks.frame(3, 0, 1, bytes(4))
    for cut in range(len(answer) + 1):
        sidecar = Sidecar(checks.question(), 1, "policy")
        sidecar.begin()
        said = sidecar.receive(answer[:cut], more=False) + sidecar.receive(answer[cut:], more=False)
        assert said == checks.frame(4, 1, 0) + checks.frame(6, 1, 0, b"12345678")
        assert (sidecar.answers, sidecar.open, dict(sidecar.errors)) == (1, 0, {})
