"""The codec against any bytes, against itself in other portions, and against h11.

What we accept, h11 accepts too, and sees the same method, target, framing and fields; so a server behind us that reads
as h11 does never sees another message than we did. (h11 is the more lenient: it lets pass what `_frame` refuses.)
"""

import contextlib
from collections.abc import Callable
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pymesh_proxy.codec.body import BodyReader, Chunked, FixedLength
from pymesh_proxy.codec.detect import OPAQUE, detect
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import MessageError, bad_request, parse_request, parse_response, response_framing
from pymesh_proxy.codec.shape import NO_FIELDS, Shape

FEW = settings(max_examples=250, deadline=None)

# --- Messages, mostly good ones ---------------------------------------------------------------------------------------

VALUES = st.sampled_from(
    [b"", b"x", b" a b\t", b"5", b"0", b"007", b"5, 5", b"+5", b"chunked", b"Chunked ", b"gzip, chunked", b"close",
     b"keep-alive", b"upgrade", b"content-length", b"a.b:80", b"[::1]", b"a@b", b"a b", b"\xff\xc3", b"\x00", b"\x0b",
     b"a\rb", b"a\nb", b"a\r\n b", b"websocket", b"100-continue", b"x" * 300],
)  # fmt: skip
NAMES = st.sampled_from(
    [b"Host", b"host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"X-A",
     b"x-a", b"Expect", b"X!#$%&'*+-.^_`|~9", b"X A", b"X-A ", b" X", b"", b"X\x00", b"X\xff"],
)  # fmt: skip
FIELD_LINES = st.builds(
    lambda name, colon, value: name + colon + value,
    NAMES, st.sampled_from([b": ", b":", b":\t ", b" :", b""]), VALUES,
)  # fmt: skip
GOOD_LINES = st.sampled_from(
    [b"X-A: b", b"x-a:c", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close",
     b"Connection: keep-alive, X-A", b"Accept: */*", b"Cookie: a=b", b"Upgrade: websocket", b"X: \xe4 \t"],
)  # fmt: skip
HOST_LINES = st.sampled_from([b"Host: a", b"host:a.b:80 ", b"HOST: [::1]:1", b"Host:"])
METHODS = st.sampled_from(
    [b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT", b"get", b"M-SEARCH", b"G T", b"", b"G\x00"]
)
TARGETS = st.sampled_from(
    [b"/", b"/a?b=c", b"//x", b"*", b"a:80", b"http://a", b"http://a:80/b?c", b"HTTPS://A/", b"http://u@a/", b"/a#b",
     b"/\xc3\xa4", b"/a b", b"", b"/%00", b"/\\", b'/"<>^`{|}', b"http://", b"[::1]:443"],
)  # fmt: skip
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b""])
ENDS = st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r"])
STATUSES = [b"200", b"204", b"304", b"100", b"103", b"404", b"599", b"999"]


def message(first: bytes, host: bytes, lines: list[bytes], end: bytes = b"\r\n") -> bytes:
    return end.join([first, host, *lines, b"", b""])


GOOD_REQUESTS = st.builds(
    message,
    st.sampled_from(
        [b"GET / HTTP/1.1", b"POST /a?b=c HTTP/1.1", b"HEAD //x HTTP/1.0", b"OPTIONS * HTTP/1.1", b"get /\\ HTTP/1.1",
         b"\r\nGET / HTTP/1.1", b"CONNECT a:80 HTTP/1.1", b"PUT http://A:80/b?c HTTP/1.1", b"OPTIONS http://a HTTP/1.1"]
    ),
    HOST_LINES,
    st.lists(GOOD_LINES, max_size=3),
)  # fmt: skip
GOOD_RESPONSES = st.builds(
    message,
    st.builds(
        lambda version, status, reason: version + b" " + status + reason,
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]),
        st.sampled_from(STATUSES),
        st.sampled_from([b" OK", b"", b" \xff x"]),
    ),
    st.sampled_from([b"Server: x", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Content-Length: 0"]),
    st.lists(st.sampled_from([b"X-A: b", b"Set-Cookie: a", b"set-cookie: b\t", b"Connection: close"]), max_size=2),
)  # fmt: skip
WILD_REQUESTS = st.builds(
    message,
    st.builds(lambda *words: b" ".join(words), METHODS, TARGETS, VERSIONS),
    st.one_of(HOST_LINES, FIELD_LINES),
    st.lists(st.one_of(GOOD_LINES, FIELD_LINES), max_size=3),
    ENDS,
)
WILD_RESPONSES = st.builds(
    message,
    st.builds(lambda *words: b" ".join(words), VERSIONS, st.sampled_from([*STATUSES, b"20", b"abc"]), VALUES),
    FIELD_LINES,
    st.lists(st.one_of(GOOD_LINES, FIELD_LINES), max_size=3),
    ENDS,
)


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """A message with a few bytes changed, lost, doubled or put in."""
    data = bytearray(draw(messages))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        byte = draw(st.sampled_from([*b"\r\n\t \0:;,#*/0159aZ\x7f\x80\xff"]))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = bytes([byte])
            case 1:
                del data[at : at + 1]
            case 2:
                data[at:at] = bytes([byte])
            case _:
                data[at:at] = data[at : at + 8]
    return bytes(data)


REQUESTS = st.one_of(GOOD_REQUESTS, mutated(GOOD_REQUESTS), mutated(WILD_REQUESTS), WILD_REQUESTS)
RESPONSES = st.one_of(GOOD_RESPONSES, mutated(GOOD_RESPONSES), mutated(WILD_RESPONSES), WILD_RESPONSES)

# --- Any bytes: a head, None, or a refusal ----------------------------------------------------------------------------


@FEW
@given(st.one_of(st.binary(max_size=200), REQUESTS, RESPONSES))
def test_any_bytes_are_a_head_the_start_of_one_or_refused(data: bytes) -> None:
    for parse in (parse_request, parse_response):
        with contextlib.suppress(MessageError):
            parsed = parse(data)
            if parsed is not None:
                head, end = parsed
                assert 0 < end <= len(data)
                assert b"\r\n\r\n" not in head.fields()
                assert head.fields() == b"" or head.fields().endswith(b"\r\n")
                assert b"\n" not in head.fields().replace(b"\r\n", b"")


@FEW
@given(st.one_of(st.binary(max_size=300), REQUESTS), st.booleans())
def test_any_bytes_are_some_protocol_and_stay_it(data: bytes, ended: bool) -> None:
    answers = [detect(data[:end]) for end in range(len(data) + 1)]
    first = next((index for index, answer in enumerate(answers) if answer is not None), len(answers))
    assert len(set(answers[first:])) <= 1
    if ended:
        assert detect(data, ended=True) == (answers[-1] or OPAQUE)


@FEW
@given(st.binary(max_size=400), st.sampled_from([b"\x16\x03\x01", b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03"]))
def test_any_handshake_is_some_protocol_and_stays_it(data: bytes, start: bytes) -> None:
    whole = start + data
    answers = [detect(whole[:end]) for end in range(len(whole) + 1)]
    first = next((index for index, answer in enumerate(answers) if answer is not None), len(answers))
    assert len(set(answers[first:])) <= 1


# --- Other portions, the same verdict ---------------------------------------------------------------------------------


def summary(head: Head) -> tuple[object, ...]:
    return (
        head.method, head.path, head.authority, head.status, head.reason, head.minor, head.content_length, head.chunked,
        head.persistent, head.upgrade, head.fields(),
    )  # fmt: skip


@FEW
@given(REQUESTS, st.binary(max_size=20))
def test_a_request_in_portions_is_the_request_in_one_piece(data: bytes, behind: bytes) -> None:
    whole: tuple[Head, int] | None = None
    refused = False
    try:
        whole = parse_request(data + behind)
    except MessageError:
        refused = True
    for end in range(len(data) + len(behind) + 1):
        try:
            parsed = parse_request((data + behind)[:end])
        except MessageError:
            # Refused early or late, but never accepted as a whole.
            assert whole is None
            return
        if parsed is not None:
            assert whole is not None
            assert parsed[1] == whole[1] == end
            assert summary(parsed[0]) == summary(whole[0])
            return
    assert whole is None
    assert not refused


def outcome(parse: Callable[..., tuple[Head, int] | None], data: bytes, like: Shape) -> object:
    try:
        parsed = parse(data, like=like)
    except MessageError as error:
        return error.details
    return None if parsed is None else (summary(parsed[0]), parsed[1])


@FEW
@given(st.one_of(st.tuples(REQUESTS, REQUESTS), st.tuples(RESPONSES, RESPONSES)))
def test_whatever_came_before_a_message_is_read_alike(pair: tuple[bytes, bytes]) -> None:
    before, data = pair
    for parse in (parse_request, parse_response):
        like = NO_FIELDS
        with contextlib.suppress(MessageError):
            parsed = parse(before)
            like = NO_FIELDS if parsed is None else parsed[0].shape
        assert outcome(parse, data, like) == outcome(parse, data, NO_FIELDS)


CHUNK_PIECES = st.sampled_from(
    [b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b'A; q="\\""\r\n0123456789\r\n', b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n",
     b"0\r\n", b"\r\n", b"Host: a\r\n", b"5\r\n", b"fffffffffffffff\r\n", b"\n", b"5;", b'"', b"X: \r\n"],
)  # fmt: skip
GOOD_CHUNKS = st.builds(
    lambda chunks, last: b"".join([*chunks, last]),
    st.lists(st.sampled_from([b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b'0A; q="\\""\r\n0123456789\r\n']), max_size=4),
    st.sampled_from([b"0\r\n\r\n", b"000;x\r\n\r\n", b"0\r\nX: y\r\nz:\r\n\r\n"]),
)
WILD_CHUNKS = st.lists(CHUNK_PIECES, max_size=6).map(b"".join)
CHUNKS = st.one_of(GOOD_CHUNKS, mutated(GOOD_CHUNKS), mutated(WILD_CHUNKS), WILD_CHUNKS)


def feed(reader: BodyReader, portions: list[bytes]) -> tuple[str, bytes]:
    """What became of the body, and its bytes."""
    body, kept = b"", b""
    try:
        for portion in portions:
            kept += portion
            if not reader.done:
                used = reader.feed(kept)
                body, kept = body + kept[:used], kept[used:]
    except MessageError:
        return "refused", b""
    return ("done" if reader.done else "open"), body


@FEW
@given(CHUNKS, st.lists(st.integers(0, 60), max_size=8))
@example(b"0\r\nHost: a\r\n\r\n", [3])
@example(b"5;\r\nhello\r\n0\r\n\r\n", [2])
def test_a_body_in_portions_is_the_body_in_one_piece(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    portions = [data[a:b] for a, b in pairwise(places)]
    outcome = feed(Chunked(bad_request), portions)
    assert outcome == feed(Chunked(bad_request), [data])
    assert outcome == feed(Chunked(bad_request), [data[i : i + 1] for i in range(len(data))])


@FEW
@given(st.binary(max_size=60), st.integers(0, 50), st.lists(st.integers(0, 60), max_size=5))
def test_a_fixed_body_in_portions(data: bytes, length: int, cuts: list[int]) -> None:
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    outcome, body = feed(FixedLength(length), [data[a:b] for a, b in pairwise(places)])
    assert body == data[:length]
    assert outcome == ("done" if len(data) >= length else "open")


# --- h11 as the judge -------------------------------------------------------------------------------------------------


def fields_of(event: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[bytes, bytes]]:
    """As h11 gives them, but for what it does to framing fields: `chunked` in lower case, a length's zeros kept."""
    return list(event.headers)


def without(fields: list[tuple[bytes, bytes]], names: set[bytes]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in fields if pair[0] not in names]


def ours(head: Head) -> list[tuple[bytes, bytes]]:
    found = [(name.lower(), value.strip(b" \t")) for name, value in head.items()]
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in found]


@settings(max_examples=600, deadline=None)
@given(REQUESTS)
def test_what_we_accept_h11_accepts_and_sees_the_same(data: bytes) -> None:
    try:
        parsed = parse_request(data)
    except MessageError:
        return
    if parsed is None:
        return
    head, end = parsed
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(data[:end].removeprefix(b"\r\n"))
    event = peer.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == head.method
    assert event.http_version == b"1.%d" % head.minor
    if event.target == b"*" or event.target.startswith(b"/") or head.method == b"CONNECT":
        assert event.target == head.path
    else:
        assert event.target.split(b"?")[0].lower().endswith(head.path.split(b"?")[0].rstrip(b"/*").lower())
        assert head.authority in event.target
    # An absolute target has the last word on Host, which is sent on as it says.
    rewritten = {b"host"} if head.get(b"host") != dict(fields_of(event)).get(b"host") else set()
    assert not rewritten or head.get(b"host") in event.target
    assert without(fields_of(event), rewritten) == without(ours(head), rewritten)
    body = peer.next_event()
    if head.method == b"CONNECT":
        return
    if head.chunked or head.content_length:
        assert body is h11.NEED_DATA
        payload = b"5\r\nhello\r\n0\r\n\r\n" if head.chunked else b"x" * min(head.content_length or 0, 10_000)
        peer.receive_data(payload)
        assert isinstance(peer.next_event(), h11.Data)
        if head.chunked or head.content_length == len(payload):
            assert isinstance(peer.next_event(), h11.EndOfMessage)
    else:
        assert isinstance(body, h11.EndOfMessage)


@settings(max_examples=400, deadline=None)
@given(RESPONSES, st.sampled_from(["GET", "HEAD"]))
def test_the_responses_we_accept_h11_frames_in_the_same_way(data: bytes, method: str) -> None:
    try:
        parsed = parse_response(data)
    except MessageError:
        return
    if parsed is None or parsed[0].status == 101:  # h11 takes an upgrade only from a client that asked for one
        return
    head, end = parsed
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(data[:end])
    event = peer.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert event.status_code == head.status
    cured = {b"content-length"} if head.status < 200 or head.status == 204 else set()
    assert without(fields_of(event), cured) == without(ours(head), cured)
    if head.status < 200:
        return
    framing = response_framing(head, method.encode())
    body = peer.next_event()
    if framing == 0:
        assert isinstance(body, h11.EndOfMessage)
        return
    assert body is h11.NEED_DATA
    if framing is None:
        peer.receive_data(b"x")
        assert isinstance(peer.next_event(), h11.Data)
        peer.receive_data(b"")
    else:
        peer.receive_data(b"1\r\nx\r\n0\r\n\r\n" if framing < 0 else b"x" * framing)
        assert isinstance(peer.next_event(), h11.Data)
    assert isinstance(peer.next_event(), h11.EndOfMessage)


@settings(max_examples=300, deadline=None)
@given(CHUNKS)
@example(b"5\r\nhello!!0\r\n\r\n")  # longer than it says
def test_the_chunks_we_accept_are_the_chunks_of_h11(data: bytes) -> None:
    reader = Chunked(bad_request)
    outcome, body = feed(reader, [data])
    if outcome != "done":
        return
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert isinstance(peer.next_event(), h11.Request)
    event = peer.next_event()
    while isinstance(event, h11.Data):
        event = peer.next_event()
    assert isinstance(event, h11.EndOfMessage)
    assert peer.trailing_data[0] == b""


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
    ],
)
def test_h11_is_no_fallback(head: bytes) -> None:
    """These h11 lets pass; were it to read what we refuse, an attacker would choose the parser."""
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(head)
    assert isinstance(peer.next_event(), h11.Request)
    with pytest.raises(MessageError):
        parse_request(head)
