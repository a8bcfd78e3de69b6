"""What is kept of a request's body, and for how long."""

import pytest

from pymesh_proxy.request_body import MAX_REPLAY_BYTES, RequestBody
from pymesh_proxy.timers import NEVER


@pytest.mark.parametrize("sent", [True, False])
def test_a_small_body_is_kept_whole(sent: bool) -> None:
    body = RequestBody(NEVER)
    assert body.hold(b"ab", sent=sent)
    assert body.hold(b"c", sent=sent)
    assert body.take() == (b"abc", False)
    assert body.take() == (b"abc", False)  # for another attempt


def test_a_large_body_that_goes_out_is_not_kept() -> None:
    body = RequestBody(NEVER)
    assert body.hold(bytes(MAX_REPLAY_BYTES), sent=True)
    assert body.held is not None
    assert body.hold(b"x", sent=True)
    assert body.held is None
    assert body.hold(b"y", sent=True)
    assert body.held is None


def test_what_waits_for_an_upstream_is_kept_and_no_more_is_wanted() -> None:
    body = RequestBody(NEVER)
    assert body.hold(bytes(MAX_REPLAY_BYTES), sent=False)
    assert not body.hold(b"x", sent=False)
    assert body.take() == (bytes(MAX_REPLAY_BYTES) + b"x", True)
    assert body.held is None
    assert body.take() == (b"", False)
