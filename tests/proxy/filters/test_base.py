"""What filters are made of."""

from functools import partial

from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.base import Later, LocalReply, Verdict


async def test_a_later_verdict_is_begun_when_it_is_awaited_and_not_before() -> None:
    begun: list[int] = []

    async def decide(number: int) -> Verdict:
        begun.append(number)
        return LocalReply(403, Flag.NONE, "no")

    Later(partial(decide, 1))  # forgotten: no coroutine is left behind that nobody awaited
    assert begun == []
    assert await Later(partial(decide, 2)) == LocalReply(403, Flag.NONE, "no")
    assert begun == [2]
