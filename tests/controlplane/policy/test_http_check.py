"""Checks in the form of HTTP: what the question is made of, and what becomes of the answer."""

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from starlette.requests import Request

from pymesh_controlplane.pilot.server import StreamError
from pymesh_controlplane.policy.http_check import question, response_to


def asked(*headers: tuple[str, str], path: str = "/check/p%2Fq", query: str = "a=%20") -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return Request(
        {
            "type": "http",
            "method": "PUT",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": raw,
        }
    )


RULES = ("x-pymesh-rules", "RateLimit a/b")
CLIENT = (
    'Hash=1;URI=spiffe://t/ns/a/sa/first,By=spiffe://t/ns/a/sa/me;Subject="CN=x,URI=no";URI=spiffe://t/ns/a/sa/last'
)


def test_the_question_is_about_the_request_behind_the_prefix() -> None:
    request = asked(
        RULES,
        ("host", "shop"),
        ("x-request-id", "7"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
        ("x-forwarded-client-cert", CLIENT),
    )
    about = CheckRequest.FromString(question(request)).attributes
    assert dict(about.context_extensions) == {"pymesh.rules": "RateLimit a/b"}
    http = about.request.http
    assert (http.method, http.host, http.path, http.id) == ("PUT", "shop", "/p%2Fq?a=%20", "7")
    assert http.headers["x-a"] == "1,2"
    assert "x-pymesh-rules" not in http.headers
    assert about.source.principal == "spiffe://t/ns/a/sa/last"
    assert about.source.address.socket_address.address == "2.2.2.2"


def test_the_root_has_a_path_too_and_nobody_need_be_known() -> None:
    about = CheckRequest.FromString(question(asked(RULES, path="/check", query=""))).attributes
    assert about.request.http.path == "/"
    assert about.source.principal == about.source.address.socket_address.address == ""


@pytest.mark.parametrize("headers", [(), (RULES, RULES)])
def test_rules_are_named_once(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(StreamError, match="named by one header x-pymesh-rules") as caught:
        question(asked(*headers))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_answers() -> None:
    answer = CheckResponse()
    assert response_to(answer).status_code == 200
    answer.status.code = 7
    assert response_to(answer).status_code == 403
    answer.denied_response.status.code = 429  # type: ignore[assignment]  # an open enum
    answer.denied_response.body = "no\n"
    answer.denied_response.headers.add().header.key = "x-empty"
    response = response_to(answer)
    assert (response.status_code, response.body, response.headers["x-empty"]) == (429, b"no\n", "")
