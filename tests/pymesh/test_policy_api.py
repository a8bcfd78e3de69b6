"""The messages of the slot leases: their bytes, their limits, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh import policy_api as api

_NUMBERS = st.integers(min_value=0, max_value=2**32 - 1)
_NONCES = st.integers(min_value=0, max_value=2**64 - 1)
_NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def test_a_request_has_these_bytes() -> None:
    """Field numbers are the contract: node 1, demands 2 (rule 1, held 2, in_use 3, wanted 4, used 5), seen 3."""
    request = api.LeaseRequest("n", (api.Demand("r", 1, 2, 3, 4),), 7)
    demand = b"\x0a\x01r\x10\x01\x18\x02\x20\x03\x28\x04"
    assert api.encode_request(request) == b"\x0a\x01n\x12" + bytes([len(demand)]) + demand + b"\x18\x07"


def test_a_response_has_these_bytes() -> None:
    """epoch 1, grants 2 (rule 1, slots 2, limit 3, valid_for 4 (a Duration), problem 5, coming 6, used 7, share 8,
    retry_after 9), nonce 3."""
    response = api.LeaseResponse("e", (api.Grant("r", 1, 2, 2.5, "p", 3, 4, 5, 1.5),), 9)
    grant = b"\x0a\x01r\x10\x01\x18\x02\x22\x08\x08\x02\x10\x80\xca\xb5\xee\x01\x2a\x01p\x30\x03"
    grant += b"\x38\x04\x40\x05\x4a\x08\x08\x01\x10\x80\xca\xb5\xee\x01"
    assert api.encode_response(response) == b"\x0a\x01e\x12" + bytes([len(grant)]) + grant + b"\x18\x09"


@given(
    _NAMES,
    st.lists(st.builds(api.Demand, _NAMES, _NUMBERS, _NUMBERS, _NUMBERS, _NONCES), unique_by=lambda d: d.rule),
    _NONCES,
)
def test_requests_survive_the_wire(node: str, demands: list[api.Demand], seen: int) -> None:
    """Whatever is sent is what is read."""
    request = api.LeaseRequest(node, tuple(demands), seen)
    assert api.decode_request(api.encode_request(request)) == request


_SECONDS = st.integers(min_value=0, max_value=10**7).map(lambda milliseconds: milliseconds / 1000)
_GRANTS = st.builds(api.Grant, _NAMES, _NUMBERS, _NUMBERS, _SECONDS, _NAMES, _NUMBERS, _NONCES, _NUMBERS, _SECONDS)


@given(_NAMES, st.lists(_GRANTS, unique_by=lambda grant: grant.rule), _NONCES)
def test_responses_survive_the_wire(epoch: str, grants: list[api.Grant], nonce: int) -> None:
    """Whatever is sent is what is read, times to the millisecond."""
    response = api.LeaseResponse(epoch, tuple(grants), nonce)
    assert api.decode_response(api.encode_response(response)) == response


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\x12\x02\x10"])
def test_garbage_is_a_value_error(data: bytes) -> None:
    """A cut varint, a cut string, a string that is not UTF-8, a cut message."""
    with pytest.raises(ValueError, match="LeaseService"):
        api.decode_request(data)
    with pytest.raises(ValueError, match="LeaseService"):
        api.decode_response(data)


def test_too_many_rules_are_refused() -> None:
    """A message is bounded before anything is done for its rules."""
    many = tuple(api.Demand(f"r{number}", 0, 0, 0) for number in range(api.MAX_RULES + 1))
    with pytest.raises(ValueError, match="257 rules"):
        api.decode_request(api.encode_request(api.LeaseRequest("n", many)))


@pytest.mark.parametrize(("rule", "replica"), [(True, False), (False, True)])
def test_names_are_bounded(rule: bool, replica: bool) -> None:
    """Of rules and of replicas: what a sidecar says is kept, and repeated to it."""
    fits, long = "x" * api.MAX_NAME, "x" * (api.MAX_NAME + 1)
    whole = api.LeaseRequest("n", (api.Demand(fits, 0, 0, 0),), replica=fits)
    assert api.decode_request(api.encode_request(whole)) == whole
    names = long if rule else fits, long if replica else fits
    request = api.LeaseRequest("n", (api.Demand(names[0], 0, 0, 0),), replica=names[1])
    response = api.LeaseResponse("e", (api.Grant(names[0], 0, 0),), replica=names[1])
    with pytest.raises(ValueError, match="a name of more than 512 characters"):
        api.decode_request(api.encode_request(request))
    with pytest.raises(ValueError, match="a name of more than 512 characters"):
        api.decode_response(api.encode_response(response))


def test_a_rule_twice_is_refused() -> None:
    """Numbers are absolute: two for one rule contradict each other."""
    twice = (api.Grant("r", 1, 1), api.Grant("r", 2, 2))
    with pytest.raises(ValueError, match="twice"):
        api.decode_response(api.encode_response(api.LeaseResponse("e", twice)))
