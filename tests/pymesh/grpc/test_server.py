"""The server's end against requests that are none, or that end early."""

import pytest

from pymesh.grpc.events import (
    Ended,
    Request,
)
from tests.pymesh.grpc.raw import GRPC, RawClient


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((("content-type", "text/plain"),), {b":status": b"415"}),
        ((GRPC, ("grpc-encoding", "gzip")), {b"grpc-status": b"12", b"grpc-accept-encoding": b"identity"}),
        ((GRPC, ("grpc-timeout", "soon")), {b"grpc-status": b"13"}),
        ((GRPC, ("x-bin", "*")), {b"grpc-status": b"13"}),
    ],
)
def test_requests_that_are_no_grpc(headers: tuple[tuple[str, str], ...], expected: dict[bytes, bytes]) -> None:
    raw = RawClient()
    assert raw.request(*headers) == []
    assert expected.items() <= raw.answer().items()
    assert raw.server.open_calls == 0


def test_a_get_is_refused() -> None:
    raw = RawClient()
    assert raw.request(GRPC, method="GET") == []
    assert raw.answer()[b":status"] == b"415"


def test_a_request_that_is_refused_and_reset_in_the_same_breath() -> None:
    raw = RawClient()
    raw.h2.send_headers(1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")])
    raw.h2.reset_stream(1, 8)
    assert raw.server.receive(raw.h2.data_to_send()) == []


def test_a_window_that_opens_a_reset_and_the_next_call_in_the_same_breath() -> None:
    """With the next call h2 forgets the one that is over, of which not all is sent."""
    raw = RawClient()
    raw.request(GRPC)
    raw.server.send(1, b"x" * 100_000)  # more than the default window of 65,535
    raw.h2.receive_data(raw.server.bytes_to_send())
    raw.h2.increment_flow_control_window(1000, 1)
    raw.h2.reset_stream(1, 8)
    raw.h2.send_headers(3, [(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "x"), GRPC])
    events = raw.server.receive(raw.h2.data_to_send())
    assert [type(event) for event in events] == [Ended, Request]
    assert raw.server.unsent(1) == 0
