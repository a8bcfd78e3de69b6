"""Header blocks: HPACK (RFC 7541), as much of it as serves us.

**Sending** keeps nothing. Every field is an index into the static table, or a literal that is not to be indexed: so a
block is a function of its fields, the same ones become the same bytes on every connection, and what was encoded once is
looked up. A peer's dynamic table is set to nothing by the first byte we send. Secrets are marked as never to be indexed
by whoever passes them on (section 7.1.3). Nothing is Huffman-coded: it would save a fifth of bytes that travel in the
same packet, and cost a table walk by each bit in Python, here or at the other end.

**Receiving** is hpack's decoder, bounded, and a memory of blocks that were read before. What a block means depends on
the dynamic table, unless that is empty and of size nothing before the block and after it: then nothing in the block can
have referred to it or changed it, and the block is a function of its bytes. For that SETTINGS_HEADER_TABLE_SIZE 0 is
offered. It costs bandwidth, some 150 bytes a gRPC call where references would take 10, and saves 25 us of CPU a block.
"""

from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

from pymesh.http2.errors import ConnectionBrokenError, ErrorCode
from pymesh.http2.events import Field, Fields
from pymesh.http2.messages import Kind, Section, section
from pymesh.remembered import remember

# Names whose values are credentials.
SECRET: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"})
# Lists and blocks that are remembered on a connection, and the bytes of the longest one: a client asks a few methods of
# a service, each with the same fields; what is longer than that carries something of its own.
REMEMBERED: Final = 64
LONGEST_REMEMBERED: Final = 1024
# Size update to nothing, RFC 7541 section 6.3.
_NO_TABLE: Final = b"\x20"
_WITHOUT_INDEXING, _NEVER_INDEXED = 0x00, 0x10
_STATIC: Final = HeaderTable.STATIC_TABLE_MAPPING
# Frames of one block: the largest header lists need four, and every peer fills its frames.
MAX_FRAMES: Final = 32


def encode_field(field: Field) -> bytes:
    """One field, without any table but the static one."""
    name, value = field
    first, values = _STATIC.get(name, (0, {}))
    if value in values:
        return _integer(values[value], 7, 0x80)
    how = _NEVER_INDEXED if name in SECRET else _WITHOUT_INDEXING
    literal = _integer(len(value), 7, 0) + value
    if first:
        return _integer(first, 4, how) + literal
    return bytes((how,)) + _integer(len(name), 7, 0) + name + literal


def _integer(number: int, prefix: int, pattern: int) -> bytes:
    encoded = encode_integer(number, prefix)
    encoded[0] |= pattern
    return bytes(encoded)


class BlockWriter:
    """Header lists → blocks, for one connection."""

    __slots__ = ("_known", "_started")

    def __init__(self) -> None:
        self._started = False
        self._known: dict[Fields, bytes] = {}

    def restart(self) -> None:
        """The peer has said how large a dynamic table may be: say once more that there is none (section 4.2)."""
        self._started = False

    def write(self, fields: Fields) -> bytes:
        """The block of these fields. Blocks have to be sent in the order in which they are written."""
        block = self._known.get(fields)
        if block is None:
            block = b"".join(map(encode_field, fields))
            if len(block) <= LONGEST_REMEMBERED and not any(name in SECRET for name, _ in fields):
                remember(self._known, fields, block, REMEMBERED)
        if self._started:
            return block
        self._started = True
        return _NO_TABLE + block


class OpenBlock:
    """A block of which more is to come (RFC 9113 section 4.3). `limit`: bytes of the longest."""

    __slots__ = ("_frames", "_limit", "block", "end", "stream_id")

    def __init__(self, stream_id: int, block: bytes, *, end: bool, limit: int) -> None:
        self.stream_id = stream_id
        self.end = end  # of the stream
        self.block = bytearray(block)
        self._frames = 1
        self._limit = limit

    def add(self, stream_id: int, block: bytes) -> None:
        """A CONTINUATION has come.

        Raises:
            ConnectionBrokenError: of something else, or one too many (CVE-2024-27316).
        """
        if stream_id != self.stream_id:
            raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        self._frames += 1
        self.block += block
        if self._frames > MAX_FRAMES or len(self.block) > self._limit:
            raise ConnectionBrokenError(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too long")


class BlockReader:
    """Blocks → header lists, for one connection.

    Args:
        list_bytes: of the largest header list, as SETTINGS_MAX_HEADER_LIST_SIZE counts it.
    """

    __slots__ = ("_decoder", "_known")

    def __init__(self, list_bytes: int) -> None:
        self._decoder = Decoder(list_bytes)
        self._known: dict[Kind, dict[bytes, Section]] = {kind: {} for kind in Kind}

    def forbid_table(self) -> None:
        """The peer has agreed to do without a dynamic table.

        Its next block should say so, too (RFC 9113 section 4.3.1). One that does not is not refused: there are encoders
        that never use a table and know no word for that, and where one goes on using it the next reference fails.
        """
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0

    def read(self, kind: Kind, block: bytes) -> Section:
        """What a whole block says. Every block has to be read, in order, whether it is wanted or not.

        Raises:
            ConnectionBrokenError: it is no HPACK, or too large; what comes after it cannot be understood.
            MalformedError: the message is malformed.
        """
        alone = self._decoder.header_table_size == 0
        if alone and (known := self._known[kind].get(block)) is not None:
            return known
        found = section(kind, self._decode(block))
        if alone and self._decoder.header_table_size == 0 and len(block) <= LONGEST_REMEMBERED:
            remember(self._known[kind], block, found, REMEMBERED)
        return found

    def _decode(self, block: bytes) -> Fields:
        try:
            # hpack's own kind of tuple keeps whether a field may be indexed; of that we say what we think, by its name.
            return tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as error:
            reason = f"a header list is larger than {self._decoder.max_header_list_size} bytes"
            raise ConnectionBrokenError(ErrorCode.ENHANCE_YOUR_CALM, reason) from error
        except HPACKError as error:
            # hpack quotes all of what it could not read: nobody else shall see that, least of all the peer or a log.
            raise ConnectionBrokenError(ErrorCode.COMPRESSION_ERROR, "a header block is no HPACK") from error
