"""Entries of the access log service: what is put together of kept pieces is what would be made anew."""

import string
from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.wrappers_pb2 import BytesValue, UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from pymesh import telemetry_tags
from pymesh.peer_metadata import Peer, ServiceFacts
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry import als
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.telemetry.trace_context import SpanContext
from pymesh_proxy.telemetry.wire import nested, varint
from pymesh_proxy.transport.facts import Facts

WORDS = st.sampled_from(["", "a", "reviews", "späße", "x" * 200])
ADDRESSES = st.sampled_from(["", "10.0.0.1:80", "[fd00::1]:65535"])
TIMES = st.one_of(st.just(0.0), st.floats(1000.0, 1003.0))
FACTS = st.builds(
    Facts,
    direction=st.sampled_from(["inbound", "outbound", "gateway"]),
    remote=ADDRESSES, local=ADDRESSES, original=ADDRESSES, tls=st.booleans(), peer=WORDS, own=WORDS, sni=WORDS,
)  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        ("request_id", "authority", "path", "route", "virtual_host", "route_source", "cluster", "upstream_peer"), WORDS
    ),
    **dict.fromkeys(("endpoint", "upstream_local"), ADDRESSES),
    **dict.fromkeys(("t_filtered", "t_connected", "t_first_byte", "t_end"), TIMES),
    **dict.fromkeys(("bytes_received", "bytes_sent"), st.integers(0, 2**40)),
    "method": st.sampled_from(["", "GET", "PATCH", "PURGE"]),
    "protocol": st.sampled_from(["HTTP/1.0", "HTTP/1.1"]),
    "endpoint_labels": st.dictionaries(WORDS, WORDS, max_size=2),
    "source": st.builds(Peer, workload=WORDS, version=WORDS),
    "destination": st.builds(Peer, workload=WORDS, namespace=WORDS),
    "service": st.builds(ServiceFacts, host=WORDS),
    "attempts": st.integers(0, 3),
    "reused": st.booleans(),
    "status": st.sampled_from([0, 200, 503]),
    "flag": st.sampled_from(Flag),
    "gave_up": st.sampled_from([Flag.NONE, Flag.UPSTREAM_OVERFLOW, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED]),
    "details": st.sampled_from(["", "via_upstream", "route_not_found"]),
    "notes": st.dictionaries(st.sampled_from(["policy", "reason"]), WORDS),
}
HEAD_VALUE = st.text(string.ascii_letters + "é /;=", max_size=20).map(lambda text: text.strip().encode("latin-1"))


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    record = RequestRecord(draw(FACTS), draw(st.floats(1.0, 4e9)), 1000.0)
    for name, values in FIELDS.items():
        setattr(record, name, draw(values))
    return record


def head(values: list[bytes]) -> Head:
    names = (b"user-agent", b"x-forwarded-for", b"referer", b"x-extra")
    fields = b"".join(b"%b: %b\r\n" % pair for pair in zip(names, values, strict=False))
    parsed = parse_request(b"GET / HTTP/1.1\r\nhost: a\r\n" + fields + b"\r\n", 60_000, 100)
    assert parsed is not None
    return parsed[0]


@given(st.lists(st.tuples(records(), st.lists(HEAD_VALUE, max_size=4)), min_size=1, max_size=6))
def test_kept_pieces_make_the_same_entries(requests: list[tuple[RequestRecord, list[bytes]]]) -> None:
    encode = als.HttpEncoder(["x-extra"], ["x-extra"])
    for record, values in requests * 2:  # the second time of what was kept
        request = head(values)
        assert HTTPAccessLogEntry.FromString(encode(record, request, request)) == encode.message(
            record, request, request
        )


def test_pieces_are_bounded() -> None:
    encode = als.HttpEncoder()
    for number in range(als.MAX_PIECES + 10):
        record = RequestRecord(Facts("inbound", f"10.0.0.1:{number}", "10.0.0.2:80"), 1.0, 1.0)
        record.authority = str(number)
        entry = HTTPAccessLogEntry.FromString(encode(record, None, None))
        assert entry.request.authority == str(number)
        assert entry.common_properties.downstream_remote_address.socket_address.port_value == number
    assert len(encode._connections) <= als.MAX_PIECES
    assert len(encode._ways) <= als.MAX_PIECES


ONE_AND_OTHER: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys(
        ("request_id", "authority", "path", "route", "virtual_host", "route_source", "cluster", "upstream_peer",
         "details"), ("one", "other"),
    ),
    **dict.fromkeys(("endpoint", "upstream_local"), ("10.0.0.1:80", "10.0.0.1:81")),
    **dict.fromkeys(("t_filtered", "t_connected", "t_first_byte", "t_end"), (1000.5, 1000.75)),
    **dict.fromkeys(("bytes_received", "bytes_sent", "attempts"), (1, 2)),
    "method": ("GET", "POST"),
    "protocol": ("HTTP/1.0", "HTTP/1.1"),
    "facts": (Facts("inbound", "10.0.0.1:1", ""), Facts("inbound", "10.0.0.1:2", "")),
    "endpoint_labels": ({"version": "v1"}, {"version": "v2"}),
    "source": (Peer("one"), Peer("other")),
    "destination": (Peer("one"), Peer("other")),
    "service": (ServiceFacts("one"), ServiceFacts("other")),
    "reused": (False, True),
    "status": (200, 503),
    "flag": (Flag.NONE, Flag.NO_ROUTE),
    "gave_up": (Flag.NONE, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED),
    "notes": ({}, {"policy": "asked"}),
    "span": (None, SpanContext("1" * 32, "2" * 16, "3" * 16, sampled=True)),
    "wall": (1.5, 2.5),
}  # fmt: skip


@pytest.mark.parametrize("field", ONE_AND_OTHER)
def test_records_that_differ_in_one_thing_only_are_told_apart(field: str) -> None:
    encode = als.HttpEncoder()
    facts = Facts("inbound", "10.0.0.1:1", "10.0.0.2:80")
    found = []
    for value in ONE_AND_OTHER[field]:
        record = RequestRecord(facts, 1.0, 1000.0)
        setattr(record, field, value)
        found.append(HTTPAccessLogEntry.FromString(encode(record, None, None)))
        assert found[-1] == encode.message(record, None, None)
    assert found[0] != found[1]


def test_every_field_of_a_record_is_told_of() -> None:
    heads, own = {"headers", "response_headers"}, {"t_start", "said", "matched", "picked"}  # told by what is in them
    made = RequestRecord(Facts("inbound", "", ""), 1.0, 1.0)
    told = {name for name in vars(made) | vars(RequestRecord) if not name.startswith("_")}
    untold = {"metadata"}  # what tokens claim of people stays in the proxy
    assert told - heads - own - untold - {"goes_to", "security", "flags"} == ONE_AND_OTHER.keys()


def test_every_flag_has_its_field() -> None:
    fields = set()
    for flag in Flag:
        if flag is not Flag.NONE:
            record = RequestRecord(Facts("inbound", "", ""), 1.0, 1.0)
            record.flag = flag
            [(field, _)] = als.HttpEncoder().message(record, None, None).common_properties.response_flags.ListFields()
            fields.add(field.name)
    assert len(fields) == len(Flag) - 1


def test_messages_say_how_many_entries_were_lost_before() -> None:
    entries = [HTTPAccessLogEntry(protocol_version=HTTPAccessLogEntry.HTTP11).SerializeToString()] * 2
    message = StreamAccessLogsMessage.FromString(als.http_message(entries, 7))
    tags = [dict(entry.common_properties.custom_tags) for entry in message.http_logs.log_entry]
    assert tags == [{telemetry_tags.DROPPED: "7"}, {}]
    message = StreamAccessLogsMessage.FromString(als.tcp_message([b"", b""], 0))
    assert [entry.ByteSize() for entry in message.tcp_logs.log_entry] == [0, 0]


@given(st.integers(0, 2**63), st.integers(1, 15))
def test_varints_are_those_of_protobuf(number: int, field: int) -> None:
    assert UInt64Value.FromString(b"\x08" + varint(number)).value == number
    size = number % 1000
    assert nested(1, b"x" * size) == BytesValue(value=b"x" * size).SerializeToString() or size == 0
    assert nested(field, b"")[0] >> 3 == field
