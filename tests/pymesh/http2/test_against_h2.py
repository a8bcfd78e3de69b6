"""Conversations, good and broken, as h2 hears them and as we do: the same events, and what it refuses we refuse.

Where the two differ is listed below, each with its reason; nothing else may.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.http2 import frames
from pymesh.http2.connection import Connection
from pymesh.http2.errors import ConnectionBrokenError
from pymesh.http2.events import DataReceived, Event, Field, HeadersReceived, InformationalReceived, StreamReset
from pymesh.http2.frames import END_HEADERS, END_STREAM, PADDED, PREFACE
from pymesh.http2.header_blocks import encode_field
from tests.pymesh.http2.wire import AGREED, GET, OK

Heard: TypeAlias = list[tuple[object, ...]] | None  # None: the connection is broken

# What we do and what h2 does where we differ, as patterns. A stream that we end is ended by RST_STREAM.
MALFORMED = (
    "cannot receive data before|Header block missing|Connection-specific|Received |Request header block|Trailers must|"
    "Illegal character|Invalid value for TE|Invalid input .*INFORMATIONAL|Cannot set END_STREAM|Informational response"
)
DIFFERENCES = [
    # A malformed message, a window opened by nothing or too far: sections 8.1.1 and 5.4.2 make it an error of the
    # stream, and the others should not lose their answers by it.
    ("ends the stream", f"breaks off: ({MALFORMED})"),
    # A content-length in a message that has no body, section 8.1.1: h2 adds up DATA only.
    ("ends the stream", "hears head"),
    # A window opened by nothing on a stream that is over, an interim response under way to one that was given up:
    # nothing is left to be ended.
    ("hears nothing", "breaks off: (Received frame with non-compliant data|Invalid input .*INFORMATIONAL)"),
    # Section 6.4 makes it an error, h2 passes it over.
    ("breaks off: RST_STREAM on stream .* not begun", "hears nothing"),
    # A server that begins a stream, section 5.1.1.
    ("breaks off: HEADERS on stream .* not begun", "hears head"),
    # HEADERS or DATA after the end that the peer itself has made, section 5.1: h2 answers RST_STREAM and goes on.
    ("breaks off: .* which was ended before", "hears nothing"),
]


class Theirs:
    """The same end of a connection on h2."""

    def __init__(self, *, client: bool) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.h2.data_to_send()
        self.broken = ""

    def hear(self, wire: bytes) -> Heard:
        try:
            events = self.h2.receive_data(wire)
        except h2.exceptions.ProtocolError as error:
            self.broken = str(error)
            return None
        return [found for event in events if (found := self._plain(event)) is not None]

    @staticmethod
    def _plain(event: h2.events.Event) -> tuple[object, ...] | None:
        ended = getattr(event, "stream_ended", None) is not None
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived() | h2.events.TrailersReceived():
                return "head", event.stream_id, tuple(map(tuple, event.headers)), ended
            case h2.events.InformationalResponseReceived():
                return "interim", event.stream_id, tuple(map(tuple, event.headers))
            case h2.events.DataReceived():
                return "data", event.stream_id, event.data, ended, event.flow_controlled_length
            case h2.events.StreamReset():
                return "reset", event.stream_id
            case _:
                return None


class Ours:
    def __init__(self, *, client: bool) -> None:
        self.connection = Connection(client=client)
        self.connection.bytes_to_send()
        self.broken = ""

    def hear(self, wire: bytes) -> Heard:
        try:
            return [found for event in self.connection.receive(wire) if (found := self._plain(event)) is not None]
        except ConnectionBrokenError as error:
            self.broken = str(error)
            return None

    @staticmethod
    def _plain(event: Event) -> tuple[object, ...] | None:
        match event:
            case HeadersReceived(stream_id, headers, end):
                return "head", stream_id, headers, end
            case InformationalReceived(stream_id, headers):
                return "interim", stream_id, headers
            case DataReceived(stream_id, data, end, padding):
                return "data", stream_id, data, end, len(data) + padding
            case StreamReset(stream_id):
                return "reset", stream_id
            case _:
                return None

    def resets(self) -> bool:
        """Whether a stream was ended since the last time."""
        said = self.connection.bytes_to_send()
        return any(said[at + 3] == frames.RST_STREAM for at in boundaries(said))


def boundaries(wire: bytes) -> list[int]:
    found, at = [], 0
    while at < len(wire):
        found.append(at)
        at += frames.HEADER_BYTES + int.from_bytes(wire[at : at + 3], "big")
    return found


def outcome(heard: Heard, broken: str, *, resets: bool) -> str:
    if heard is None:
        return f"breaks off: {broken}"
    return "ends the stream" if resets else "hears " + " ".join(str(event[0]) for event in heard or [["nothing"]])


STREAMS = st.sampled_from([1, 1, 1, 3, 3, 5, 7, 2, 0])
ODD_FIELDS: list[tuple[Field, ...]] = [
    (*GET, (b"content-length", b"3")), (*OK, (b"content-length", b"3")), (*GET, (b"connection", b"close")), GET[1:],
    (*GET, GET[0]), ((b"x", b"y"), *GET), ((b":status", b"103"),), ((b":status", b"204"),), (*OK, (b"te", b"gzip")),
    (*GET, (b"X", b"y")), ((b"x-last", b"1"),), (), (*GET, (b"host", b"b")), (*GET, (b"x", b"a\r\nb")),
]  # fmt: skip


@st.composite
def head(draw: st.DrawFn) -> bytes:
    fields = draw(st.sampled_from([GET, GET, OK, OK, *ODD_FIELDS]))
    block = b"".join(map(encode_field, fields))
    stream, end = draw(STREAMS), END_STREAM * draw(st.booleans())
    if draw(st.booleans()):
        return frames.frame(frames.HEADERS, END_HEADERS | end, stream, block)
    again = draw(st.sampled_from([stream, stream, stream, 9]))
    opened = frames.frame(frames.HEADERS, end, stream, block[:5])
    return opened + frames.frame(frames.CONTINUATION, END_HEADERS, again, block[5:])


def simple(kind: int, payloads: list[bytes], flags: tuple[int, ...] = (0,)) -> st.SearchStrategy[bytes]:
    return st.builds(lambda flag, stream, payload: frames.frame(kind, flag, stream, payload),
                     st.sampled_from(flags), STREAMS, st.sampled_from(payloads))  # fmt: skip


FRAMES = st.one_of(
    head(),
    head(),
    simple(frames.DATA, [b"", b"abc", b"a", b"\x01ab", b"\x09a"], (0, END_STREAM, PADDED, PADDED | END_STREAM)),
    simple(frames.DATA, [b"abc"], (0, END_STREAM)),
    simple(frames.RST_STREAM, [b"\0\0\0\x08", b"\0\0\0\x08", b"\0\0\x08"]),
    simple(frames.WINDOW_UPDATE, [b"\0\0\0\x01", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0"]),
    simple(frames.PRIORITY, [b"\0\0\0\0\x01"]),
    st.sampled_from([
        frames.settings([]), frames.settings([(4, 5)]), frames.settings([(4, 2**31)]), frames.settings([(5, 1)]),
        frames.frame(frames.PING, 0, 0, bytes(8)), frames.frame(frames.PING, 0, 1, bytes(8)),
        frames.frame(0x99, 0, 1, b"?"), frames.frame(frames.CONTINUATION, END_HEADERS, 1, b""),
    ]),
)  # fmt: skip


@pytest.mark.parametrize("client", [False, True])
@settings(max_examples=100, deadline=None)
@given(wires=st.lists(FRAMES, max_size=12))
def test_conversations(client: bool, wires: list[bytes]) -> None:
    ours, theirs = Ours(client=client), Theirs(client=client)
    hello = frames.settings([]) + AGREED
    for each in (ours, theirs):
        assert each.hear(hello if client else PREFACE + hello) == []
    if client:
        for stream in (1, 3):
            ours.connection.send_headers(stream, GET, end=False)
            theirs.h2.send_headers(stream, GET)
    for wire in wires:
        ours.resets()
        expected, found = theirs.hear(wire), ours.hear(wire)
        if expected is not None and found == expected:
            continue
        if found is None and expected is None:
            return
        we = outcome(found, ours.broken, resets=ours.resets())
        they = outcome(expected, theirs.broken, resets=False)
        assert any(re.match(a, we) and re.match(b, they) for a, b in DIFFERENCES), (we, they)
        return


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_conversation_between_the_two(data: st.DataObject) -> None:
    """Whole requests and answers, in any order, any sizes, and in any pieces: what one sends the other hears."""
    ours = Connection(client=False)
    theirs = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    theirs.initiate_connection()
    bodies = data.draw(st.lists(st.binary(max_size=2000), min_size=1, max_size=5))
    heard: dict[int, bytes] = {}
    answered: dict[int, bytes] = {}

    def carry(take: Callable[[bytes], object], wire: bytes) -> None:
        size = data.draw(st.integers(1, 400))
        for at in range(0, len(wire), size):
            take(wire[at : at + size])

    def on_ours(wire: bytes) -> None:
        for event in ours.receive(wire):
            if isinstance(event, DataReceived):
                heard[event.stream_id] = heard.get(event.stream_id, b"") + event.data
                ours.acknowledge(event.stream_id, len(event.data) + event.padding)
                if event.end:
                    ours.send_headers(event.stream_id, OK, end=False)
                    ours.send_data(event.stream_id, heard[event.stream_id])
                    ours.send_end(event.stream_id, ((b"x-last", b"1"),))

    def on_theirs(wire: bytes) -> None:
        for event in theirs.receive_data(wire):
            if isinstance(event, h2.events.DataReceived):
                answered[event.stream_id] = answered.get(event.stream_id, b"") + event.data

    for number, body in enumerate(bodies):
        stream = 2 * number + 1
        theirs.send_headers(stream, GET)
        half = len(body) // 2
        theirs.send_data(stream, body[:half], pad_length=data.draw(st.sampled_from([None, 0, 9])))
        theirs.send_data(stream, body[half:], end_stream=True)
    for _ in range(2):
        carry(on_ours, theirs.data_to_send())
        carry(on_theirs, ours.bytes_to_send())
    expected = {2 * number + 1: body for number, body in enumerate(bodies)}
    assert heard == expected
    assert {stream: answered.get(stream, b"") for stream in expected} == expected
