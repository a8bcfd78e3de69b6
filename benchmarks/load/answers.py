"""Answers, read from the bytes of a connection (RFC 9112): as much as it takes to know where each ends, and no IO.

The reader is strict where a mistake would be counted as an answer, and looks at no header that does not frame.
"""

import re
from dataclasses import dataclass
from typing import Final

# Bytes of a head, a chunk's line, or trailers: more than any server sends, and a bound for one that does not stop.
MAX_HEAD: Final = 256 * 1024

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*(?=\r\n)", re.IGNORECASE)
_CODING: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n)", re.IGNORECASE)
_CONNECTION: Final = re.compile(rb"\r\nconnection:[ \t]*([^\r\n]*)(?=\r\n)", re.IGNORECASE)
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\Z")
_BODILESS: Final = frozenset({204, 304})

_UNTIL_CLOSE: Final = -1


class BadAnswerError(Exception):
    """What came is no HTTP/1.1 answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer. `body_bytes` without the framing; `last` says that the connection is at its end with it."""

    status: int
    body_bytes: int
    last: bool


class AnswerReader:
    """Reads the answers of one connection, one at a time: requests are not pipelined."""

    __slots__ = ("_answer_to_head", "_body", "_buffer", "_last", "_left", "_state", "_status")

    def __init__(self, *, answer_to_head: bool = False) -> None:
        """`answer_to_head`: the requests are HEAD, whose answers have no body."""
        self._answer_to_head = answer_to_head
        self._buffer = b""
        self._state = "head"
        self._status = self._body = self._left = 0
        self._last = False

    def feed(self, data: bytes) -> Answer | None:
        """The answer that `data` completes, or None while there is more to come.

        Raises:
            BadAnswerError: it is none, or there is something behind it that nobody asked for.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while True:
            if self._state == "head":
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    self._keep(data)
                    return None
                self._read_head(data[: end + 2])
                data = data[end + 4 :]
            if self._state == "body":
                return self._read_body(data)
            if self._state == "chunks":
                return self._read_chunks(data)

    def end(self) -> Answer | None:
        """The connection was closed: the answer that this completes, if its body ends so.

        Raises:
            BadAnswerError: in the midst of an answer.
        """
        if self._state == "body" and self._left == _UNTIL_CLOSE:
            return self._complete()
        if self._state != "head" or self._buffer:
            raise BadAnswerError("the connection was closed in the midst of an answer")
        return None

    def _keep(self, data: bytes) -> None:
        if len(data) > MAX_HEAD:
            raise BadAnswerError(f"a head, chunk line or trailers of more than {MAX_HEAD} bytes")
        self._buffer = data

    def _read_head(self, head: bytes) -> None:
        """Sets the state in which the answer goes on; an interim answer (1xx) leaves that at `head`."""
        matched = _STATUS.match(head)
        if matched is None:
            raise BadAnswerError(f"no status line: {head[:60]!r}")
        self._status = int(matched[2])
        if self._status == 101:
            raise BadAnswerError("101: nobody asked for another protocol")
        if self._status < 200:
            return
        lengths = {int(length) for length in _LENGTH.findall(head)}
        chunked = _CODING.search(head) is not None
        if len(lengths) > 1 or (lengths and chunked):
            raise BadAnswerError("framed in more than one way")
        options = b",".join(_CONNECTION.findall(head)).lower()
        self._last = b"close" in options or (matched[1] == b"0" and b"keep-alive" not in options)
        self._body = 0
        if self._answer_to_head or self._status in _BODILESS:
            self._left, self._state = 0, "body"
        elif chunked:
            self._left, self._state = 0, "chunks"
        else:
            self._left, self._state = lengths.pop() if lengths else _UNTIL_CLOSE, "body"

    def _read_body(self, data: bytes) -> Answer | None:
        if self._left == _UNTIL_CLOSE:
            self._body += len(data)
            return None
        if len(data) > self._left:
            raise BadAnswerError("more bytes than the answer has")
        self._left -= len(data)
        self._body += len(data)
        return None if self._left else self._complete()

    def _read_chunks(self, data: bytes) -> Answer | None:
        at = 0
        while True:
            if self._left:  # of a chunk, with the line end behind it
                taken = min(self._left, len(data) - at)
                self._left -= taken
                at += taken
                if self._left:
                    return None
            end = data.find(b"\r\n", at)
            if end < 0:
                self._keep(data[at:])
                return None
            line = _CHUNK.match(data, at, end)
            if line is None:
                raise BadAnswerError(f"no chunk size: {data[at:end][:40]!r}")
            size = int(line[1], 16)
            if size == 0:
                return self._read_trailers(data, at, end + 2)
            self._body += size
            self._left, at = size + 2, end + 2

    def _read_trailers(self, data: bytes, last_chunk: int, at: int) -> Answer | None:
        """They are read anew from the last chunk's line until they are all there."""
        if data.startswith(b"\r\n", at):
            end = at + 2
        elif (found := data.find(b"\r\n\r\n", at)) >= 0:
            end = found + 4
        else:
            self._keep(data[last_chunk:])
            return None
        if len(data) > end:
            raise BadAnswerError("more bytes than the answer has")
        return self._complete()

    def _complete(self) -> Answer:
        answer = Answer(self._status, self._body, self._last or self._left == _UNTIL_CLOSE)
        self._state, self._left = "head", 0
        return answer
