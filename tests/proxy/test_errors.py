"""Every flag that the data path can end a request with has a status, a kind and words."""

import re

import pytest

from pymesh_proxy.errors import CAUSES, Flag, ProxyError, failure
from tests.support.repository import ROOT

# RFC 9209 section 2.3, the error types that a gateway can have.
REGISTERED = {
    "connection_limit_reached", "connection_read_timeout", "connection_refused", "connection_terminated",
    "connection_timeout", "destination_not_found", "destination_unavailable", "http_protocol_error",
    "http_request_denied", "http_request_error", "http_response_timeout", "proxy_configuration_error",
    "proxy_internal_error", "proxy_internal_response", "tls_certificate_error",
}  # fmt: skip


@pytest.mark.parametrize("flag", CAUSES)
def test_a_cause_has_a_status_and_a_registered_kind(flag: Flag) -> None:
    cause = CAUSES[flag]
    assert cause.error in REGISTERED
    assert (400 <= cause.status <= 504) or flag is Flag.NONE
    assert cause.body.isascii()
    assert cause.body.isprintable()


def test_every_flag_that_is_raised_has_a_cause() -> None:
    """`fail` answers with the cause's words: a flag without one would be a KeyError in place of an answer."""
    raised = re.compile(r"(?:failure|ProxyError|MessageError)\(\s*(?:\d+,\s*)?Flag\.([A-Z_]+)")
    names = {name for file in (ROOT / "proxy/pymesh_proxy").rglob("*.py") for name in raised.findall(file.read_text())}
    assert len(names) > 5
    assert names <= {flag.name for flag in CAUSES}


def test_flags_are_envoys_and_all_different() -> None:
    values = [flag.value for flag in Flag]
    assert len(set(values)) == len(values)
    statuses = {"UF": 503, "UH": 503, "UO": 503, "UC": 503, "UPE": 502, "UT": 504, "NR": 404, "NC": 503, "RL": 429}
    assert {flag.value: CAUSES[flag].status for flag in CAUSES if flag.value in statuses} == statuses


def test_a_failure_takes_its_status_from_the_table() -> None:
    error = failure(Flag.NO_ROUTE, "route_not_found", "why")
    assert isinstance(error, ProxyError)
    assert (error.status, error.flag, error.details, error.reason) == (404, Flag.NO_ROUTE, "route_not_found", "why")
    assert str(error) == "404 NR route_not_found"
