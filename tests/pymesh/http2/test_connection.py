"""A connection against a peer that may say anything: states, windows, settings, and what a peer may cost."""

import pytest

from pymesh.http2 import floods, frames, settings
from pymesh.http2.connection import Connection
from pymesh.http2.errors import ConnectionBrokenError, ErrorCode
from pymesh.http2.events import (
    DataReceived,
    GoAway,
    HeadersReceived,
    InformationalReceived,
    PingAcknowledged,
    StreamReset,
)
from pymesh.http2.frames import END_HEADERS, END_STREAM, PADDED
from pymesh.http2.header_blocks import encode_field
from pymesh.http2.stream_table import MAX_GIVEN_UP
from tests.pymesh.http2.wire import AGREED, GET, OK, Raw, client, data, head, server

PING = frames.frame(frames.PING, 0, 0, b"12345678")
RESET = frames.rst_stream(1, ErrorCode.CANCEL)


def rst(code: ErrorCode, stream_id: int = 1) -> frames.Frame:
    return frames.RST_STREAM, 0, stream_id, code.to_bytes(4, "big")


def breaks(raw: Raw, *wire: bytes) -> ConnectionBrokenError:
    """The connection is over, and the peer is told why."""
    with pytest.raises(ConnectionBrokenError) as caught:
        raw.tell(*wire)
    kind, _, _, payload = raw.said()[-1]
    assert kind == frames.GOAWAY
    assert frames.farewell_of(payload)[1:] == (caught.value.code, str(caught.value).encode())
    assert raw.tell(PING) == raw.said() == []
    return caught.value


# --- Greetings ------------------------------------------------------------------------------------------------------


def test_what_both_ends_say_first() -> None:
    sent = Connection(client=True, window=100_000).bytes_to_send()
    assert sent.startswith(frames.PREFACE)
    assert sent.endswith(frames.window_update(0, 100 * 100_000 - 65_535))
    assert Connection(client=False).bytes_to_send().startswith(b"\0\0\x18\x04")


def test_settings_are_acknowledged() -> None:
    raw = server()
    raw.tell(frames.settings([(0x99, 1)]))
    assert raw.said() == [(frames.SETTINGS, frames.ACK, 0, b"")]


def test_an_acknowledgement_of_nothing() -> None:
    assert breaks(server(agreed=False), AGREED, AGREED).code is ErrorCode.PROTOCOL_ERROR
    assert breaks(server(agreed=False), frames.frame(frames.SETTINGS, frames.ACK, 0, bytes(6))).code is (
        ErrorCode.FRAME_SIZE_ERROR
    )


def test_a_server_that_would_have_us_push() -> None:
    assert breaks(client(), frames.settings([(settings.ENABLE_PUSH, 1)])).code is ErrorCode.PROTOCOL_ERROR
    assert server((settings.ENABLE_PUSH, 1)).tell(PING) == []


# --- Messages -------------------------------------------------------------------------------------------------------


def test_a_request_and_its_answer() -> None:
    raw = server()
    assert raw.tell(head(1), data(1, b"ab"), data(1, b"", end=True)) == [
        HeadersReceived(1, GET, end=False), DataReceived(1, b"ab", end=False), DataReceived(1, b"", end=True),
    ]  # fmt: skip
    raw.connection.send_headers(1, OK, end=False)
    raw.connection.send_data(1, b"answer")
    raw.connection.send_end(1, ((b"x-last", b"1"),))
    assert [(kind, flags & END_STREAM) for kind, flags, *_ in raw.said()] == [(1, 0), (0, 0), (1, END_STREAM)]
    assert breaks(raw, data(1, b"more")).code is ErrorCode.STREAM_CLOSED


def test_the_last_of_a_body_and_its_end_go_in_one_frame() -> None:
    raw = client()
    raw.connection.send_data(1, b"question", end=True)
    assert raw.said() == [(frames.DATA, END_STREAM, 1, b"question")]
    raw.connection.send_data(1, b"more")
    raw.connection.send_end(1)
    assert raw.said() == []


def test_interim_responses_come_before_the_final_one() -> None:
    raw = client()
    early = ((b":status", b"103"), (b"link", b"</a>"))
    assert raw.tell(head(1, early), head(1, early), head(1, OK), head(1, (), end=True)) == [
        InformationalReceived(1, early), InformationalReceived(1, early),
        HeadersReceived(1, OK, end=False), HeadersReceived(1, (), end=True),
    ]  # fmt: skip


def test_padding_is_counted_and_taken_off() -> None:
    raw = server()
    padded = frames.frame(frames.DATA, PADDED, 1, b"\x03ab\0\0\0")
    assert raw.tell(head(1), padded)[1] == DataReceived(1, b"ab", end=False, padding=4)


def test_a_block_in_many_frames() -> None:
    raw = server()
    block = b"".join(map(encode_field, GET))
    pieces = [block[at : at + 3] for at in range(0, len(block), 3)]
    wire = [frames.frame(frames.HEADERS, END_STREAM, 1, b"")]
    wire += [frames.frame(frames.CONTINUATION, 0, 1, piece) for piece in pieces]
    assert raw.tell(*wire) == []
    assert raw.tell(frames.frame(frames.CONTINUATION, END_HEADERS, 1)) == [HeadersReceived(1, GET, end=True)]


@pytest.mark.parametrize("between", [PING, head(3), data(1), frames.frame(0x99, 0, 0)])
def test_nothing_comes_between(between: bytes) -> None:
    assert "interrupted" in str(breaks(server(), frames.frame(frames.HEADERS, 0, 1, b""), between))


def test_a_continuation_of_nothing_or_of_another() -> None:
    breaks(server(), frames.frame(frames.CONTINUATION, END_HEADERS, 1))
    breaks(server(), frames.frame(frames.HEADERS, 0, 1), frames.frame(frames.CONTINUATION, END_HEADERS, 3))


BAD_HEAD = (*GET, (b"connection", b"close"))


def test_a_malformed_request_is_refused_alone_and_nobody_hears_of_it() -> None:
    raw = server()
    assert raw.tell(head(1, BAD_HEAD), data(1, b"more of it"), head(3, end=True)) == [HeadersReceived(3, GET, end=True)]
    assert raw.said()[0] == rst(ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (head(1, ((b":status", b"101"),)), "response"),
        (head(1, ((b":status", b"103"),), end=True), "interim"),
        (data(1, b"x"), "before a response"),
        (head(1, OK) + head(1, ((b"x-last", b"1"),)), "trailers"),
        (head(1, OK) + head(1, OK, end=True), "trailers"),
        (head(1, (*OK, (b"content-length", b"2"))) + data(1, b"abc"), "longer"),
        (head(1, (*OK, (b"content-length", b"2"))) + data(1, b"a", end=True), "shorter"),
        (head(1, (*OK, (b"content-length", b"2"))) + head(1, (), end=True), "shorter"),
        (head(1, (*OK, (b"content-length", b"2")), end=True), "shorter"),
        (head(1, ((b":status", b"204"),)) + data(1, b"a"), "longer"),
        (frames.window_update(1, 0), "by nothing"),
        (frames.window_update(1, 2**31 - 1), "too large"),
    ],
)
def test_an_error_of_one_stream_ends_that_alone(wire: bytes, reason: str) -> None:
    raw = client(streams=2)
    events = raw.tell(wire, head(3, OK, end=True))
    broken = events[-2]
    assert isinstance(broken, StreamReset)
    assert reason in broken.reason
    assert events[-1] == HeadersReceived(3, OK, end=True)
    assert raw.said()[0] == rst(ErrorCode(broken.error_code))


def test_bodies_that_do_not_come_in_spite_of_their_length() -> None:
    raw = Raw(Connection(client=True))
    raw.connection.send_headers(1, ((b":method", b"HEAD"), *GET[1:]), end=True)
    raw.connection.send_headers(3, GET, end=True)
    long = (b"content-length", b"5")
    assert len(raw.tell(head(1, (*OK, long), end=True), head(3, ((b":status", b"304"), long), end=True))) == 2


# --- Streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", [head(2), head(0), data(5), frames.rst_stream(5, 8), frames.window_update(5, 1)])
def test_streams_that_were_not_begun(wire: bytes) -> None:
    for raw in (server(), client()):
        assert breaks(raw, wire).code is ErrorCode.PROTOCOL_ERROR


def test_a_server_begins_no_streams() -> None:
    assert breaks(client(), head(2, OK)).code is ErrorCode.PROTOCOL_ERROR
    assert breaks(client(), head(3, OK)).code is ErrorCode.PROTOCOL_ERROR
    assert server().connection.next_stream_id() is None


def test_a_stream_below_the_newest_is_over() -> None:
    assert breaks(server(), head(5), head(3)).code is ErrorCode.STREAM_CLOSED


def test_more_after_the_end_of_a_stream_that_is_open_on_our_side() -> None:
    raw = server()
    raw.tell(head(1, end=True))
    assert raw.tell(data(1, b"x")) == [StreamReset(1, ErrorCode.STREAM_CLOSED, "the stream was ended before")]
    assert raw.said()[0] == rst(ErrorCode.STREAM_CLOSED)


def test_what_comes_after_we_have_given_a_stream_up_is_passed_over() -> None:
    raw = server()
    raw.tell(head(1))
    raw.connection.reset(1, ErrorCode.CANCEL)
    raw.connection.reset(1, ErrorCode.CANCEL)
    assert raw.said() == [rst(ErrorCode.CANCEL)]
    late = (data(1, b"late"), frames.window_update(1, 5), RESET, head(1, BAD_HEAD))
    assert raw.tell(*late, head(3, end=True)) == [HeadersReceived(3, GET, end=True)]


def test_what_was_given_up_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = server()
    for number in range(MAX_GIVEN_UP + 1):
        raw.tell(head(2 * number + 1))
        raw.connection.reset(2 * number + 1, ErrorCode.CANCEL)
    assert raw.tell(data(3)) == []
    assert breaks(raw, data(1)).code is ErrorCode.STREAM_CLOSED


def test_a_reset_of_the_peer() -> None:
    raw = client()
    raw.connection.send_data(1, b"x" * 100_000)
    assert raw.connection.unsent(1) > 0
    assert raw.tell(RESET, RESET) == [StreamReset(1, ErrorCode.CANCEL)]
    assert raw.connection.unsent(1) == 0
    raw.connection.send_data(1, b"more")
    raw.connection.send_end(1)
    raw.said()
    assert raw.tell(frames.window_update(0, 100_000)) == raw.said() == []


def test_no_more_streams_than_there_may_be() -> None:
    raw = server(streams=2)
    events = raw.tell(head(1), head(3), head(5), data(5, b"x"), head(5, (), end=True))
    assert [type(event) for event in events] == [HeadersReceived] * 2
    assert raw.said() == [rst(ErrorCode.REFUSED_STREAM, 5)]
    raw.connection.reset(1, ErrorCode.CANCEL)
    assert len(raw.tell(head(7))) == 1


def test_the_peers_limit_of_streams() -> None:
    raw = client((settings.MAX_CONCURRENT_STREAMS, 2), streams=2)
    assert raw.connection.next_stream_id() is None
    raw.connection.reset(1, ErrorCode.CANCEL)
    assert raw.connection.next_stream_id() == 5


def test_ids_are_used_up() -> None:
    raw = client(streams=0)
    raw.connection._streams._next = 2**31 - 1
    raw.connection.send_headers(2**31 - 1, GET, end=True)
    assert raw.connection.next_stream_id() is None


# --- Windows --------------------------------------------------------------------------------------------------------


def test_bodies_wait_for_room_and_take_turns() -> None:
    raw = client((settings.INITIAL_WINDOW_SIZE, 2**20), streams=2)
    for stream in (1, 3):
        raw.connection.send_data(stream, b"x" * 90_000)
        raw.connection.send_end(stream)
    raw.said()
    turns = []
    while raw.connection.unsent(3):
        raw.tell(frames.window_update(0, 10_000))
        turns += [(stream_id, bool(flags & END_STREAM)) for _, flags, stream_id, _ in raw.said()]
    ended = [(1, False), (3, False), (1, False), (3, False), (1, True), (3, False)]
    assert turns == [*ended, *((3, False),) * 6, (3, True)]


def test_trailers_wait_for_the_body_and_the_reset_for_both() -> None:
    raw = server((settings.INITIAL_WINDOW_SIZE, 10))
    raw.tell(head(1))
    raw.connection.send_headers(1, OK, end=False)
    raw.connection.send_data(1, b"x" * 25)
    raw.connection.send_end(1, ((b"x-last", b"1"),), reset=True)
    raw.connection.send_data(1, b"after the end")
    assert [kind for kind, *_ in raw.said()] == [frames.HEADERS, frames.DATA]
    assert raw.connection.unsent(1) == 15
    raw.tell(frames.window_update(1, 10))
    assert [len(payload) for *_, payload in raw.said()] == [10]
    raw.tell(frames.window_update(1, 10))
    assert [kind for kind, *_ in raw.said()] == [frames.DATA, frames.HEADERS, frames.RST_STREAM]


def test_a_window_that_shrinks_under_way_and_grows_again() -> None:
    raw = client((settings.INITIAL_WINDOW_SIZE, 10))
    raw.connection.send_data(1, b"x" * 20)
    raw.said()
    raw.tell(frames.settings([(settings.INITIAL_WINDOW_SIZE, 5)]))
    raw.tell(frames.window_update(1, 5))
    assert [kind for kind, *_ in raw.said()] == [frames.SETTINGS]
    raw.tell(frames.settings([(settings.INITIAL_WINDOW_SIZE, 15)]))
    assert [len(payload) for kind, *_, payload in raw.said() if kind == frames.DATA] == [10]


def test_windows_that_are_too_large() -> None:
    assert breaks(server(), frames.window_update(0, 2**31 - 1)).code is ErrorCode.FLOW_CONTROL_ERROR
    assert breaks(server(), frames.window_update(0, 0)).code is ErrorCode.PROTOCOL_ERROR
    grown = (frames.window_update(1, 2**31 - 1 - 65_535), frames.settings([(settings.INITIAL_WINDOW_SIZE, 65_536)]))
    assert breaks(server(), head(1), *grown).code is ErrorCode.FLOW_CONTROL_ERROR


def test_more_than_a_stream_may_send() -> None:
    raw = server(window=100)
    events = raw.tell(head(1), data(1, b"x" * 101), data(1, b"x" * 9000), head(3, end=True))
    assert [type(event) for event in events] == [HeadersReceived, StreamReset, HeadersReceived]
    assert raw.said()[0] == rst(ErrorCode.FLOW_CONTROL_ERROR)


def test_more_than_a_connection_may_send() -> None:
    raw = server(window=70_000, connection_window=70_000, streams=9)
    raw.tell(head(1), head(3), *(data(1, b"x" * 10_000) for _ in range(4)), *(data(3, b"x" * 10_000) for _ in range(3)))
    assert breaks(raw, data(3, b"x")).code is ErrorCode.FLOW_CONTROL_ERROR


def test_before_it_has_agreed_a_peer_may_send_by_the_default_window() -> None:
    raw = server(agreed=False, window=100)
    assert len(raw.tell(head(1), data(1, b"x" * 16_000))) == 2
    assert len(raw.tell(AGREED, data(1), head(3), data(3, b"x" * 100))) == 3
    assert isinstance(raw.tell(data(1, b"x"))[0], StreamReset)
    assert isinstance(raw.tell(data(3, b"x"))[0], StreamReset)


def test_a_window_that_shrinks_by_our_settings_has_its_credit() -> None:
    """What was consumed before they came into force is announced then, or nothing would ever be sent again."""
    raw = server(agreed=False, window=20_000)
    raw.tell(head(1))
    for size in (16_384, 16_384, 16_384, 16_383):
        raw.tell(data(1, b"x" * size))
        raw.connection.acknowledge(1, size)
    raw.tell(AGREED)
    credit = [
        frames.increment_of(payload)
        for kind, _, stream_id, payload in raw.said()
        if kind == frames.WINDOW_UPDATE and stream_id
    ]
    assert sum(credit) == 65_535
    assert len(raw.tell(data(1, b"x" * 16_384))) == 1


def test_credit_of_streams_that_are_over_goes_to_the_connection() -> None:
    raw = server(window=65_535, connection_window=65_535)
    for stream in range(1, 201, 2):
        raw.tell(head(stream), data(stream, b"x" * 1000))
        raw.connection.reset(stream, ErrorCode.CANCEL)
        raw.tell(data(stream, b"x" * 1000))  # under way
        raw.connection.acknowledge(stream, 1000)
    credit = sum(frames.increment_of(frame[3]) for frame in raw.said() if frame[0] == frames.WINDOW_UPDATE)
    assert credit > 200_000 - 65_535


# --- Pings, goodbyes ------------------------------------------------------------------------------------------------


def test_pings_both_ways() -> None:
    raw = server()
    raw.connection.ping(b"abcdefgh")
    answer = frames.frame(frames.PING, frames.ACK, 0, b"abcdefgh")
    assert raw.tell(PING, answer, answer) == [PingAcknowledged(b"abcdefgh")]
    assert raw.said() == [(frames.PING, 0, 0, b"abcdefgh"), (frames.PING, frames.ACK, 0, b"12345678")]


def test_a_peer_that_goes_away_may_still_answer() -> None:
    raw = client()
    assert raw.tell(frames.goaway(1, 0, b"bye"), PING, head(1, OK, end=True)) == [
        GoAway(1, 0, b"bye"), HeadersReceived(1, OK, end=True),
    ]  # fmt: skip


def test_retiring_and_going_away() -> None:
    raw = server()
    raw.tell(head(1))
    raw.connection.retire()
    assert [frames.farewell_of(payload) for *_, payload in raw.said()] == [(2**31 - 1, 0, b"")]
    assert len(raw.tell(head(3))) == 1
    raw.connection.go_away(ErrorCode.INTERNAL_ERROR, b"why")
    raw.connection.go_away()
    assert [frames.farewell_of(payload) for *_, payload in raw.said()] == [(3, 2, b"why")]
    raw.connection.send_headers(1, OK, end=True)
    raw.connection.ping(bytes(8))
    raw.connection.retire()
    raw.connection.acknowledge(1, 10**6)
    raw.connection.reset(1, ErrorCode.CANCEL)
    assert raw.tell(head(5)) == raw.said() == []


# --- Floods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        PING,
        frames.frame(frames.PING, frames.ACK, 0, bytes(8)),
        frames.settings([]),
        frames.window_update(0, 1),
        frames.window_update(1, 1),
        frames.window_update(3, 1),
        frames.frame(frames.PRIORITY, 0, 9, bytes(5)),
        frames.frame(0x99, 0, 1, b"?"),
        frames.goaway(0, 0),
        frames.rst_stream(3, 8),
        data(1),
        data(3),
    ],
)
def test_a_flood_of_frames_that_carry_nothing(wire: bytes) -> None:
    raw = server(clock=lambda: 0.0)  # type: ignore[arg-type]
    raw.tell(head(1), head(3))
    raw.connection.reset(3, ErrorCode.CANCEL)
    assert breaks(raw, wire * (floods.NOISE + 100)).code is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("ending", [frames.rst_stream, lambda stream, _: frames.window_update(stream, 0)])
def test_streams_that_are_begun_to_be_reset(ending: type) -> None:
    """By the peer (CVE-2023-44487), or by us because it breaks a rule (CVE-2025-8671)."""
    raw = server(clock=lambda: 0.0)  # type: ignore[arg-type]
    streams = range(1, 2 * floods.RESETS + 10, 2)
    wire = b"".join(head(stream) + ending(stream, 8) for stream in streams)
    assert breaks(raw, wire).code is ErrorCode.ENHANCE_YOUR_CALM


def test_streams_that_end_well_beside_them() -> None:
    raw = server(clock=lambda: 0.0)  # type: ignore[arg-type]
    for stream in range(1, 8 * floods.RESETS, 4):
        raw.tell(head(stream, end=True), head(stream + 2), frames.rst_stream(stream + 2, 8))
        raw.connection.send_headers(stream, OK, end=True)
        raw.said()
