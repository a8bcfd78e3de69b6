"""The five bytes before each message: a flag for compression, and the length."""

import struct

# Ten times the largest push of a mesh with a thousand services (1.7 MB), and four times grpcio's default, which such a
# push with long route tables comes near to. A peer that announces more is refused before a byte of it is kept.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024

HEADER_BYTES = 5
_HEADER = struct.Struct("!BI")


class FramingError(Exception):
    """Bytes that are no gRPC message, or one that is refused."""


class MessageTooLargeError(FramingError):
    """The message that the peer announces is longer than the limit."""


class CompressedMessageError(FramingError):
    """The message is compressed, though only `identity` was offered."""


def encode_frame(message: bytes) -> bytes:
    """`message` with its prefix, uncompressed."""
    return _HEADER.pack(0, len(message)) + message


class MessageReader:
    """Cuts a stream of bytes into messages."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit

    @property
    def buffered(self) -> int:
        """Bytes of the message that is still incomplete, its prefix included."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, in order.

        Raises:
            FramingError: the stream cannot be read any further; feed it no more.
        """
        buffer = self._buffer
        size = len(data) - HEADER_BYTES
        if not buffer and 0 <= size <= self._limit and _HEADER.unpack_from(data) == (0, size):
            return [data[HEADER_BYTES:]]  # one message as a whole, as most of them come
        buffer += data
        messages: list[bytes] = []
        start = 0
        while len(buffer) - start >= HEADER_BYTES:
            flag, length = _HEADER.unpack_from(buffer, start)
            if flag == 1:
                raise CompressedMessageError("the message is compressed; only grpc-encoding identity is accepted")
            if flag:
                raise FramingError(f"byte {flag:#04x} where a message's compression flag should be")
            if length > self._limit:
                raise MessageTooLargeError(f"a message of {length} bytes is larger than the limit of {self._limit}")
            end = start + HEADER_BYTES + length
            if len(buffer) < end:
                break
            messages.append(bytes(memoryview(buffer)[start + HEADER_BYTES : end]))
            start = end
        if start:
            del buffer[:start]
        return messages
