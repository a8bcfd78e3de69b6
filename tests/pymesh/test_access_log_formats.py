"""The grammar of access log formats: what the control plane lets through, the proxy can make lines of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.access_log_formats import (
    ENVOY_TEXT_FORMAT,
    ISTIO_JSON_FORMAT,
    ISTIO_TEXT_FORMAT,
    PLAIN,
    WITH_ARGUMENT,
    Command,
    parse_format,
)
from pymesh.errors import ConfigError
from pymesh_proxy.telemetry import log_format
from pymesh_proxy.telemetry.log_operators import OPERATORS
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts


def test_the_proxy_has_a_value_for_every_operator() -> None:
    assert OPERATORS.keys() == PLAIN
    assert frozenset({"REQ", "RESP", "START_TIME"}) == WITH_ARGUMENT  # test_whatever_is_let_through_makes_a_line


def test_a_format_is_taken_apart() -> None:
    assert parse_format("[%START_TIME%] 100%% %REQ(A?:PATH):7%x") == [
        "[", Command("START_TIME"), "] 100% ", Command("REQ", "A?:PATH", 7), "x",
    ]  # fmt: skip
    assert parse_format("") == []


@pytest.mark.parametrize("text", [ENVOY_TEXT_FORMAT, ISTIO_TEXT_FORMAT, *ISTIO_JSON_FORMAT.values()])
def test_the_formats_that_people_know_are_right(text: str) -> None:
    assert parse_format(text)


PIECES = st.sampled_from(
    ["%", "%%", "(", ")", ":7", "REQ", "RESP", "START_TIME", "PROTOCOL", "X-A", "?", ":PATH", " \n"]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_whatever_is_let_through_makes_a_line(text: str) -> None:
    try:
        parse_format(text)
    except ConfigError:
        with pytest.raises(ConfigError):
            log_format.compile_format(text)
    else:
        assert (
            log_format.compile_format(text)(RequestRecord(Facts("outbound", "", ""), 0.0, 0.0), None, None) is not None
        )
