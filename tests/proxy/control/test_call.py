"""A question's answer is one message and OK; anything else is an error, whatever the order in which it comes."""

import asyncio
import gc

import pytest

from pymesh.grpc.status import Code, RpcError, Status
from pymesh_proxy.control.call import Answer

OK = Status(Code.OK)
NOT_ONE = "INTERNAL: /a/b did not answer with exactly one message"


@pytest.mark.parametrize(
    ("messages", "status", "expected"),
    [
        ([b"x"], OK, b"x"),
        ([b""], OK, b""),
        ([], OK, NOT_ONE),
        ([b"x", b"y"], OK, NOT_ONE),
        ([b"x"] * 1000, OK, NOT_ONE),
        ([b"x"], Status(Code.UNAVAILABLE, "gone"), "UNAVAILABLE: gone"),
        ([], Status(Code.PERMISSION_DENIED), "PERMISSION_DENIED"),
    ],
)
async def test_answers(messages: list[bytes], status: Status, expected: bytes | str) -> None:
    answer = Answer(1, "/a/b")
    for message in messages:
        answer.deliver(message)
    assert not answer.future.done()
    answer.end(status)
    if isinstance(expected, bytes):
        assert await answer.future == expected
    else:
        with pytest.raises(RpcError, match=expected):
            await answer.future


async def test_what_comes_after_it_was_given_up_changes_nothing() -> None:
    late, left = Answer(1, "/a/b"), Answer(3, "/a/b")
    late.fail(RpcError(Status(Code.DEADLINE_EXCEEDED)))
    left.future.cancel()
    for answer in (late, left):
        answer.deliver(b"x")
        answer.end(OK)
    with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
        await late.future
    assert left.future.cancelled()


async def test_nobody_need_wait_for_an_answer_any_more_when_it_fails() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about))
    answer = Answer(1, "/a/b")
    answer.fail(RpcError(Status(Code.DEADLINE_EXCEEDED)))
    del answer
    gc.collect()
    assert told == []
