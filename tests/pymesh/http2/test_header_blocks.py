"""HPACK: what we write is read by another implementation, and what is remembered is what would be read."""

import pytest
from hpack import Decoder, Encoder, NeverIndexedHeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.http2 import header_blocks
from pymesh.http2.errors import ConnectionBrokenError, ErrorCode
from pymesh.http2.events import Fields
from pymesh.http2.header_blocks import LONGEST_REMEMBERED, REMEMBERED, BlockReader, BlockWriter, OpenBlock, encode_field
from pymesh.http2.messages import Kind, MalformedError

NAMES = st.sampled_from([b"te", b"content-type", b"x-a", b"authorization", b"accept", b"grpc-timeout"])
VALUES = st.sampled_from([b"", b"a", b"trailers", b"x" * 126, b"x" * 127, b"x" * 300, b"application/grpc"])
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=6).map(tuple)


@given(st.lists(LISTS, max_size=5))
def test_another_implementation_reads_what_we_write(lists: list[Fields]) -> None:
    writer, decoder = BlockWriter(), Decoder()
    for fields in lists:
        assert tuple(map(tuple, decoder.decode(writer.write(fields), raw=True))) == fields
        assert decoder.header_table_size == 0 == len(decoder.header_table.dynamic_entries)


def test_a_peer_that_allows_less_is_told_again_that_there_is_no_table() -> None:
    writer = BlockWriter()
    fields = ((b":method", b"GET"),)
    assert [writer.write(fields), writer.write(fields)] == [b"\x20\x82", b"\x82"]
    writer.restart()
    assert [writer.write(fields), writer.write(fields)] == [b"\x20\x82", b"\x82"]


@pytest.mark.parametrize("name", [*sorted(header_blocks.SECRET), b"x-other"])
def test_credentials_are_never_indexed(name: bytes) -> None:
    [field] = Decoder().decode(encode_field((name, b"secret")), raw=True)
    assert isinstance(field, NeverIndexedHeaderTuple) == (name != b"x-other")


@pytest.mark.parametrize("size", [0, 4096])
@settings(max_examples=30)
@given(lists=st.lists(st.integers(0, 5), max_size=12), data=st.data())
def test_a_memory_changes_nothing(size: int, lists: list[int], data: st.DataObject) -> None:
    """Of blocks that come again and again, with a dynamic table and without, what another implementation reads."""
    known = data.draw(st.lists(LISTS, min_size=6, max_size=6))
    encoder, decoder, reader = Encoder(), Decoder(), BlockReader(65536)
    encoder.header_table_size = size
    for number in lists:
        block = encoder.encode(known[number], huffman=data.draw(st.booleans()))
        expected = tuple(map(tuple, decoder.decode(block, raw=True)))
        try:
            assert reader.read(Kind.TRAILERS, block).fields == expected == known[number]
        except MalformedError:
            assert known[number] != (b"te", b"trailers")


def test_what_refers_to_a_table_is_not_remembered() -> None:
    """The same block means something else when the table has changed."""
    encoder, reader = Encoder(), BlockReader(65536)
    first, again = (encoder.encode([(b"x-a", b"1")]) for _ in range(2))
    reader.read(Kind.TRAILERS, first)
    assert reader.read(Kind.TRAILERS, again).fields == ((b"x-a", b"1"),)
    reader.read(Kind.TRAILERS, encoder.encode([(b"x-b", b"2")]))
    assert reader.read(Kind.TRAILERS, again).fields == ((b"x-b", b"2"),)


def test_what_opens_a_table_is_not_remembered() -> None:
    """A block that begins with a size update was read with an empty table, and leaves another one."""
    reader = BlockReader(65536)
    reader.read(Kind.TRAILERS, b"\x20\x00\x03x-c\x011")
    opening = b"\x3f\xe1\x1f" + b"\x40\x03x-a\x011"  # 4096, and an entry
    for _ in range(2):
        reader.read(Kind.TRAILERS, b"\x20")
        reader.read(Kind.TRAILERS, opening)
        assert reader.read(Kind.TRAILERS, b"\xbe").fields == ((b"x-a", b"1"),)


def test_what_was_remembered_without_a_table_is_read_anew_with_one() -> None:
    """There its field is put into the table, and the next block refers to it."""
    reader = BlockReader(65536)
    adding = b"\x40\x03x-a\x011"
    reader.read(Kind.TRAILERS, b"\x20")
    for _ in range(2):
        reader.read(Kind.TRAILERS, adding)
    reader.read(Kind.TRAILERS, b"\x3f\xe1\x1f")  # 4096
    reader.read(Kind.TRAILERS, adding)
    assert reader.read(Kind.TRAILERS, b"\xbe").fields == ((b"x-a", b"1"),)


def test_the_same_block_is_read_once_and_a_kind_apart() -> None:
    reader = BlockReader(65536)
    block = b"\x20" + encode_field((b":status", b"200"))
    reader.read(Kind.RESPONSE, block)
    assert reader.read(Kind.RESPONSE, block) is reader.read(Kind.RESPONSE, block)
    with pytest.raises(MalformedError):
        reader.read(Kind.TRAILERS, block)


def test_memories_are_bounded() -> None:
    writer, reader = BlockWriter(), BlockReader(1 << 20)
    for number in range(3 * REMEMBERED):
        reader.read(Kind.TRAILERS, writer.write(((b"x-number", b"%d" % number),)))
    long = ((b"x-long", b"x" * LONGEST_REMEMBERED),)
    reader.read(Kind.TRAILERS, writer.write(long))
    writer.write(((b"authorization", b"secret"),))
    assert len(reader._known[Kind.TRAILERS]) == REMEMBERED == len(writer._known)
    assert long not in writer._known
    assert not any(name == b"authorization" for fields in writer._known for name, _ in fields)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"\x80", ErrorCode.COMPRESSION_ERROR),  # index 0
        (b"\xbe", ErrorCode.COMPRESSION_ERROR),  # of a table that is empty
        (b"\x00\x05ab", ErrorCode.COMPRESSION_ERROR),  # ends early
        (b"\xff\xff\xff\xff\xff\xff\x7f", ErrorCode.COMPRESSION_ERROR),  # a number without end
        (b"\x00\x81\xff\x01a", ErrorCode.COMPRESSION_ERROR),  # Huffman padding that is a whole byte
        (b"\x3f\xe2\x1f", ErrorCode.COMPRESSION_ERROR),  # a table of 4097 bytes
        (b"\x82\x20", ErrorCode.COMPRESSION_ERROR),  # a size update after a field
        (b"\x00\x01x\x7f\xe1\x0f" + b"v" * 2144, ErrorCode.ENHANCE_YOUR_CALM),
    ],
)
def test_what_is_no_hpack_or_too_large(block: bytes, code: ErrorCode) -> None:
    with pytest.raises(ConnectionBrokenError) as caught:
        BlockReader(2000).read(Kind.TRAILERS, block)
    assert caught.value.code is code


def test_what_cannot_be_read_is_quoted_to_nobody() -> None:
    """Not to the peer, not in a log: it may be somebody's token, and as long as a block may be."""
    with pytest.raises(ConnectionBrokenError) as caught:
        BlockReader(65536).read(Kind.REQUEST, b"\x00\x7f" + b"\xff" * 20_000 + b"token")
    assert "token" not in str(caught.value)
    assert len(str(caught.value)) < 100


def test_a_bomb_is_defused() -> None:
    """One entry of 4 kB, and a byte for each time that it is to come (CVE-2016-6581)."""
    encoder, reader = Encoder(), BlockReader(65536)
    fields = [(b"x", b"v" * 4000)]
    reader.read(Kind.TRAILERS, encoder.encode(fields))
    with pytest.raises(ConnectionBrokenError, match="larger than 65536"):
        reader.read(Kind.TRAILERS, encoder.encode(fields) * 1000)


def test_a_peer_that_has_agreed_keeps_to_it() -> None:
    encoder, reader = Encoder(), BlockReader(65536)
    reader.read(Kind.TRAILERS, encoder.encode([(b"x-a", b"1")]))
    reader.forbid_table()
    assert reader.read(Kind.TRAILERS, encode_field((b"x-b", b"2"))).fields == ((b"x-b", b"2"),)
    for block in (encoder.encode([(b"x-a", b"1")]), b"\x21"):
        with pytest.raises(ConnectionBrokenError) as caught:
            reader.read(Kind.TRAILERS, block)
        assert caught.value.code is ErrorCode.COMPRESSION_ERROR


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_garbage(blocks: list[bytes]) -> None:
    reader = BlockReader(1000)
    try:
        for block in blocks:
            reader.read(Kind.REQUEST, block)
    except (ConnectionBrokenError, MalformedError):
        return


def test_a_block_in_pieces_is_bounded() -> None:
    opened = OpenBlock(1, b"a", end=True, limit=100)
    opened.add(1, b"b")
    assert bytes(opened.block) == b"ab"
    with pytest.raises(ConnectionBrokenError, match="interrupted"):
        opened.add(3, b"c")
    with pytest.raises(ConnectionBrokenError, match="too long"):
        opened.add(1, b"c" * 99)
    empty = OpenBlock(1, b"", end=True, limit=100)
    for _ in range(header_blocks.MAX_FRAMES - 1):
        empty.add(1, b"")
    with pytest.raises(ConnectionBrokenError, match="too long"):
        empty.add(1, b"")
