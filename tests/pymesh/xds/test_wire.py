"""Messages cut apart on the wire: the pieces and the rest are what parsing the whole gives, or both refuse it."""

import pytest
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from pymesh.errors import ConfigError
from pymesh.steps import whole
from pymesh.xds import wire
from pymesh.xds.wire import split

RESOURCES = DiscoveryResponse.RESOURCES_FIELD_NUMBER
PACKED = st.builds(Any, type_url=st.text(max_size=5), value=st.binary(max_size=300))
RESPONSES = st.builds(
    DiscoveryResponse,
    version_info=st.text(max_size=200),
    resources=st.lists(PACKED, max_size=5),
    canary=st.booleans(),
    nonce=st.text(max_size=5),
)


def joined(data: bytes) -> DiscoveryResponse:
    """What the pieces of `data` and the rest are, put together."""
    rest, pieces = whole(split(data, RESOURCES))
    message = DiscoveryResponse.FromString(rest)
    assert not message.resources
    message.resources.extend(Any.FromString(data[start:end]) for start, end in pieces)
    return message


@given(RESPONSES, RESPONSES)
def test_the_pieces_are_the_message(one: DiscoveryResponse, other: DiscoveryResponse) -> None:
    assert joined(one.SerializeToString()) == one
    both = one.SerializeToString() + other.SerializeToString()  # which is a message, too
    assert joined(both) == DiscoveryResponse.FromString(both)


@given(
    st.binary(max_size=40)
    | st.builds(lambda message, cut: message.SerializeToString()[:cut], RESPONSES, st.integers(0, 99))
)
def test_what_is_no_message_is_refused_by_either_parser(data: bytes) -> None:
    try:
        expected = DiscoveryResponse.FromString(data)
    except DecodeError:
        with pytest.raises((ConfigError, DecodeError)):
            joined(data)
        return
    found: DiscoveryResponse | None = None
    problem = ""
    try:
        found = joined(data)
    except ConfigError as error:
        problem = str(error)
    assert found == expected or "wire type 3" in problem, "groups, which no message has, are all that is refused beyond"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x12\x05abc", "cut short"),
        (b"\x12", "no end to the number at byte 1"),
        (b"\x0a" + b"\xff" * 11, "no end"),
        (b"\x00\x01", "where a field should begin"),
        (b"\x13", "wire type 3"),
        (b"\x0d\x01", "cut short"),
        (b"\x0d" + b"\x01" * 3, "cut short"),
        (b"\x09" + b"\x01" * 7, "cut short"),
        (b"\x82\x80\x80\x80\x10\x00", "where a field should begin"),
    ],
)
def test_problems_are_told(data: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        whole(split(data, RESOURCES))


def test_fields_of_every_kind_are_passed_over() -> None:
    """Unknown ones, which the next version of a message may have; the last one's number takes two bytes."""
    others = b"\x08\x96\x01", b"\x09" + b"\x12" * 8, b"\x0d" + b"\x12" * 4, b"\x0a\x02\x12\x00", b"\x92\x01\x02\x12\x00"
    data = b"\x12\x01a" + b"".join(other + b"\x12\x01b" for other in others)
    rest, pieces = whole(split(data, RESOURCES))
    assert [data[start:end] for start, end in pieces] == [b"a"] + [b"b"] * len(others)
    assert rest == b"".join(others)


def test_the_number_of_pieces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_PIECES", 3)
    assert len(whole(split(b"\x12\x00" * 3, RESOURCES))[1]) == 3
    with pytest.raises(ConfigError, match="more than 3 times"):
        whole(split(b"\x12\x00" * 4, RESOURCES))


def test_a_large_message_is_cut_in_steps() -> None:
    table = RouteConfiguration(name="r", virtual_hosts=[VirtualHost(name=str(number)) for number in range(5000)])
    steps = sum(1 for _ in split(table.SerializeToString(), RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER))
    assert steps >= 9
