"""Where a message body ends: fixed length, chunked, or the end of the connection. Sans-IO.

A body is not decoded on its way through (but for HTTP/1.0 clients, see `Unchunked`); the readers only find its end and
refuse what is malformed, and the bytes go on as they came. `feed` says how many bytes of `data` belong to the body *and
are verified*; the rest is to be fed again, with more behind it, or is the next message.
"""

import re
from typing import Final, Protocol

from pymesh_proxy.codec.http1 import Refusal

# A chunk's size line and a trailer section longer than this carry nothing that a peer needs (nginx: 4 KiB in all).
MAX_CHUNK_LINE: Final = 4 * 1024
MAX_TRAILERS: Final = 16 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
# chunk-size [chunk-ext] CRLF, RFC 9112 7.1; at most 15 digits, so that no peer's integer can overflow. The white space
# before a semicolon that 7.1.1 calls bad is refused: it would be passed on, and not everybody behind us reads it. As in
# http1.py, no group is possessive.


def _small_chunks() -> bytes:
    """A pattern for one whole chunk of 1 to 255 bytes, without an extension."""
    one = [b"[%x%X]\r\n.{%d}\r\n" % (size, size, size) for size in range(1, 16)]
    for high in range(16):
        rest = [b"[%x%X]\r\n.{%d}\r\n" % (low, low, 16 * high + low) for low in range(16) if high or low]
        one.append(b"[%x%X](?:%b)" % (high, high, b"|".join(rest)))
    return b"|".join(one)


# The end of a body without trailers.
_LAST_CHUNK: Final = b"0\r\n\r\n"
# Whoever sends a megabyte in chunks of a few bytes has them counted by the pattern engine, ten to twenty times faster
# than one by one: otherwise one such peer could hold up everybody else on the loop.
_SMALL_CHUNKS: Final = re.compile(b"(?:%b){1,1024}" % _small_chunks(), re.DOTALL)
# Small chunks that are written at length all the same (extensions, leading zeros) are counted one by one, so there may
# only be so many in a body; who signs its chunks makes them of kilobytes.
MAX_ODD_CHUNKS: Final = 1000
_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15}+)(?:;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*\r\n"
)
# The usual size line of a chunk that is not small: no extension, no leading zero, at least 256 bytes.
_PLAIN_SIZE: Final = re.compile(rb"([1-9A-Fa-f][0-9A-Fa-f]{2,7})\r\n")
_TRAILER_LINES: Final = re.compile(rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n)*")
# Fields that must not arrive behind the body, since they were acted on before it (RFC 9110 6.5.1), or since only a
# proxy says them: a server that merges trailers into its headers would believe the client.
_FORBIDDEN_TRAILER: Final = re.compile(
    rb"\n(?:content-(?:length|encoding|type|range)|transfer-encoding|host|connection|keep-alive|proxy-connection|upgrade"
    rb"|trailer|te|expect|(?:proxy-)?authorization|cookie|x-request-id|x-forwarded-[^:]*|x-envoy-[^:]*):",
    re.IGNORECASE,
)


class BodyReader(Protocol):
    """Finds the end of one body."""

    done: bool

    def feed(self, data: bytes) -> int:
        """How many bytes at the start of `data` belong to the body; sets `done` when the last of it was among them.

        Raises:
            MessageError: the framing is malformed.
        """

    def end_of_stream(self) -> bool:
        """Whether the connection may end here: True where that completes the body."""


class FixedLength:
    """A body of Content-Length bytes."""

    __slots__ = ("done", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def feed(self, data: bytes) -> int:
        """See BodyReader."""
        used = min(len(data), self.remaining)
        self.remaining -= used
        self.done = self.remaining == 0
        return used

    def end_of_stream(self) -> bool:
        """See BodyReader: a body cut short is not a body."""
        return self.done


class UntilClose:
    """A response body that ends with the connection (RFC 9112 6.3, rule 8)."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> int:
        """See BodyReader."""
        return len(data)

    def end_of_stream(self) -> bool:
        """See BodyReader."""
        self.done = True
        return True


class Chunked:
    """A chunked body, RFC 9112 7.1.

    `_left` is what the current chunk still has to come, its CRLF included; 0 expects a size line, -1 the trailers.
    """

    __slots__ = ("_bad", "_left", "_odd", "done")

    def __init__(self, bad: Refusal) -> None:
        self._bad = bad
        self._left = 0
        self._odd = 0
        self.done = False

    def feed(self, data: bytes) -> int:
        """See BodyReader."""
        position, size = 0, len(data)
        while position < size and not self.done:
            if self._left > 2:
                used = min(size - position, self._left - 2)
                position += used
                self._left -= used
            elif self._left > 0:
                ending = b"\r\n"[2 - self._left :]
                have = data[position : position + self._left]
                if not ending.startswith(have):
                    raise self._bad("chunk_without_crlf")
                position += len(have)
                self._left -= len(have)
            elif self._left == 0:
                if data.startswith(_LAST_CHUNK, position):
                    position += len(_LAST_CHUNK)
                    self.done = True
                    break
                plain = _PLAIN_SIZE.match(data, position)
                if plain is not None:
                    after = plain.end() + int(plain[1], 16)
                    if data.startswith(b"\r\n", after):  # all of it is here, as it mostly is; else as below
                        position = after + 2
                        continue
                run = _SMALL_CHUNKS.match(data, position)
                if run is not None:
                    position = run.end()
                    continue
                used = self._size_line(data, position)
                if used == 0:
                    break
                position += used
                after = position + self._left
                if self._left > 0 and data[after - 2 : after] == b"\r\n":  # all of it is here
                    position = after
                    self._left = 0
            else:
                used = self._trailers(data, position)
                if used == 0:
                    break
                position += used
        return position

    def _size_line(self, data: bytes, start: int) -> int:
        """Read a size line at `start`; 0 if it is not complete yet."""
        match = _SIZE_LINE.match(data, start)
        if match is None:
            self._check_partial(data[start:], MAX_CHUNK_LINE, "invalid_chunk_size")
            return 0
        length = int(match[1], 16)
        self._left = length + 2 if length else -1
        if match.end() - start > MAX_CHUNK_LINE:
            raise self._bad("chunk_extension_too_large")
        if 0 < length < 256 and match.end() - start > 4:
            self._odd += 1
            if self._odd > MAX_ODD_CHUNKS:
                raise self._bad("too_many_small_chunks_with_extensions")
        return match.end() - start

    def _trailers(self, data: bytes, start: int) -> int:
        """Read the trailer section and the last empty line at `start`; 0 if it is not complete yet."""
        match = _TRAILER_LINES.match(data, start)
        assert match is not None  # no line is a match, too
        end = match.end()
        if end + 2 - start > MAX_TRAILERS:
            raise self._bad("trailers_too_large")
        if data[end : end + 2] != b"\r\n":
            self._check_partial(data[end:], MAX_TRAILERS, "invalid_trailers")
            return 0
        if end > start and _FORBIDDEN_TRAILER.search(b"\n" + match[0]):
            raise self._bad("forbidden_trailer")
        self.done = True
        return end + 2 - start

    def _check_partial(self, partial: bytes, limit: int, details: str) -> None:
        """Refuse a line that can no longer become a good one; an incomplete one that still may is left alone."""
        if b"\n" in partial or b"\r" in partial[:-1] or len(partial) > limit:
            raise self._bad(details)
        if details == "invalid_chunk_size" and partial and re.match(rb"[0-9A-Fa-f]{1,15}(?:$|[;\r])", partial) is None:
            raise self._bad(details)

    def end_of_stream(self) -> bool:
        """See BodyReader: only the last chunk ends a chunked body."""
        return self.done


class Unchunked:
    """The content of a chunked body, without its framing: for those who do not know chunks (RFC 9112 7.1.3).

    It judges nothing. It is fed what `Chunked` has verified, piece by piece as that consumed it: lines are whole.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = 0  # as in Chunked

    def feed(self, data: bytes) -> bytes:
        """The content in `data`; trailers are dropped."""
        pieces = []
        position, size = 0, len(data)
        while position < size and self._left >= 0:
            if self._left == 0:
                line_end = data.index(b"\r\n", position)
                length = int(data[position:line_end].partition(b";")[0], 16)
                self._left = length + 2 if length else -1
                position = line_end + 2
                continue
            content = max(0, min(size - position, self._left - 2))
            pieces.append(data[position : position + content])
            used = content or min(size - position, self._left)
            position += used
            self._left -= used
        return b"".join(pieces)


def reader_for(length: int | None, bad: Refusal) -> BodyReader:
    """The reader for what `response_framing` answered: a length, -1 for chunked, None for until-close."""
    if length is None:
        return UntilClose()
    return Chunked(bad) if length < 0 else FixedLength(length)
