"""Questions and answers of external authorization, byte by byte: what is asked for, and what must not be done."""

import contextlib
import math

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.filters.authz import Answer, AnswerError, question, read_answer
from tests.proxy.filters.test_remembered import context


def allowed(name: str, value: str, *, append: bool = False) -> bytes:
    answer = CheckResponse()
    option = answer.ok_response.headers.add()
    option.header.key, option.header.value, option.append.value = name, value, append
    return answer.SerializeToString()


def test_no_status_is_yes() -> None:
    assert read_answer(b"") == Answer(True)


@pytest.mark.parametrize(
    "name",
    ["host", "Host", ":path", ":authority", "content-length", "Transfer-Encoding", "connection", "te", "upgrade", "",
     "a b", "a:b", "a\r\nb", "\xe4"],
)  # fmt: skip
def test_what_frames_or_targets_the_request_cannot_be_changed(name: str) -> None:
    with pytest.raises(AnswerError):
        read_answer(allowed(name, "1"))
    removal = CheckResponse()
    removal.ok_response.headers_to_remove.append(name)
    with pytest.raises(AnswerError):
        read_answer(removal.SerializeToString())
    denied = CheckResponse()
    denied.status.code = 7
    denied.denied_response.headers.add().header.key = name
    with pytest.raises(AnswerError):
        read_answer(denied.SerializeToString())


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "\0", "a\x7f"])
def test_values_hold_no_control_characters(value: str) -> None:
    with pytest.raises(AnswerError, match="control characters"):
        read_answer(allowed("x", value))


def test_a_status_that_is_none_of_an_answer_becomes_403() -> None:
    for code in (0, 100, 101, 999):
        answer = CheckResponse()
        answer.status.code = 7
        answer.denied_response.status.code = code  # type: ignore[assignment]  # an open enum
        assert read_answer(answer.SerializeToString()).status == 403


def test_changes_of_query_parameters_are_refused() -> None:
    answer = CheckResponse()
    answer.ok_response.query_parameters_to_remove.append("x")
    with pytest.raises(AnswerError, match="query parameters"):
        read_answer(answer.SerializeToString())


LEVEL = {"requests": 10, "period": 60, "burst": 5, "sidecars": 2, "full_in": 6}


def ours(**said: object) -> bytes:
    """An answer with metadata, in which a number may be none that JSON has."""
    answer = CheckResponse()
    answer.dynamic_metadata.update({"pymesh.policy": said})
    return answer.SerializeToString()


def test_where_a_rate_stands() -> None:
    assert read_answer(ours(rates={"a": LEVEL})).ours.rates == {"a": (10, 60, 5, 2, 6.0)}


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, -1.0, 1e300])
@pytest.mark.parametrize("name", LEVEL)
def test_numbers_that_are_no_rate(name: str, number: float) -> None:
    with pytest.raises(AnswerError, match="rate"):
        read_answer(ours(rates={"a": LEVEL | {name: number}}))


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, -1.0])
def test_an_answer_is_used_a_number_of_times(number: float) -> None:
    memory = {"valid_for": "1s", "attributes": []}
    assert read_answer(ours(rules={"a": memory | {"valid_uses": 3}})).ours.memories["a"].uses == 3
    with pytest.raises(AnswerError, match="how often"):
        read_answer(ours(rules={"a": memory | {"valid_uses": number}}))


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_metadata_that_no_filter_could_read(number: float) -> None:
    answer = CheckResponse()
    answer.dynamic_metadata.update({"a": {"b": number}})
    assert read_answer(answer.SerializeToString()).allowed
    with pytest.raises(AnswerError, match="metadata"):
        read_answer(answer.SerializeToString(), metadata=True)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    with contextlib.suppress(AnswerError):
        assert isinstance(read_answer(data), Answer)


@given(st.text(max_size=20), st.text(max_size=20), st.booleans(), st.integers(0, 3))
def test_no_answer_breaks_a_head(name: str, value: str, append: bool, action: int) -> None:
    asked = context(b"x-user: a\r\n")
    message = CheckResponse.FromString(allowed(name, value, append=append))
    option = message.ok_response.response_headers_to_add.add()
    option.append_action = action  # type: ignore[assignment]  # an open enum
    option.header.key, option.header.value = name, value
    try:
        answer = read_answer(message.SerializeToString())
    except AnswerError:
        return
    lines = asked.request.fields().count(b"\r\n")
    answer.change(asked.request)
    answer.change_response(asked.request)
    assert lines <= asked.request.fields().count(b"\r\n") <= lines + 2
    assert asked.request.fields().count(b"\n") == asked.request.fields().count(b"\r\n")


def test_a_question_shows_only_the_headers_that_it_may() -> None:
    asked = CheckRequest.FromString(
        question(context(b"cookie: secret\r\nx-a: 1\r\n"), {"k": "v"}, lambda name: name in {b":path", b"x-a"})
    )
    assert dict(asked.attributes.request.http.headers) == {":path": "/cart?x=y", "x-a": "1"}
    assert dict(asked.attributes.context_extensions) == {"k": "v"}
    assert asked.attributes.source.principal == "spiffe://a/ns/b/sa/c"
    assert asked.attributes.source.address.socket_address.address == "fd00::1"
