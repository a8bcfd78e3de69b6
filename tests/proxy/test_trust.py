"""Who is believed what; tests/conformance/test_retries.py compares the common cases with Envoy."""

from ipaddress import ip_network

import pytest

from pymesh_proxy.config.model import HttpManager
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.trust import believe, client
from tests.support.heads import request

INSIDE = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("edge", "remote", "forwarded_for", "internal"),
    [
        (False, "10.0.0.9:1", "", False),  # who the client is, nobody has said
        (False, "192.0.2.1:1", "10.0.0.9", True),
        (False, "192.0.2.1:1", "fd00::1", True),
        (False, "192.0.2.1:1", "10.0.0.9,10.0.0.8", False),
        (False, "192.0.2.1:1", "10.0.0.9:80", False),
        (True, "10.0.0.9:1", "", True),
        (True, "[fd00::1]:1", "", True),
        (True, "10.0.0.9:1", "10.0.0.8", False),  # it came through somebody
        (True, "192.0.2.1:1", "", False),
    ],
)
def test_who_is_internal(edge: bool, remote: str, forwarded_for: str, internal: bool) -> None:
    manager = HttpManager("m", None, "r", use_remote_address=edge, internal_networks=INSIDE)
    headers = [("x-envoy-internal", "true"), ("x-envoy-internal", "yes"), ("x-envoy-retry-on", "5xx")]
    if forwarded_for:
        headers.append(("x-forwarded-for", forwarded_for))
    head = request(headers=headers)
    believe(head, manager, Facts("inbound", remote, "10.0.0.1:80"))
    assert head.get(b"x-envoy-internal") == (b"true" if internal else None)
    assert head.has(b"x-envoy-retry-on") is internal


def test_nobody_is_internal_where_no_network_is_named() -> None:
    head = request(headers=[("x-forwarded-for", "10.0.0.9"), ("x-envoy-max-retries", "9")])
    believe(head, HttpManager("m", None, "r"), Facts("inbound", "10.0.0.9:1", "10.0.0.1:80"))
    assert not head.has(b"x-envoy-max-retries")


@pytest.mark.parametrize(
    ("hops", "said", "client"),
    [
        (0, "", "192.0.2.1"),
        (0, "1.2.3.4, 5.6.7.8", "192.0.2.1"),  # nobody before us is trusted
        (1, "1.2.3.4, 5.6.7.8", "5.6.7.8"),
        (2, "1.2.3.4,5.6.7.8", "1.2.3.4"),
        (3, "1.2.3.4, 5.6.7.8", "192.0.2.1"),  # it came past those who are
        (1, "1.2.3.4, mallory", "192.0.2.1"),
        (1, "1.2.3.4,", "192.0.2.1"),
        (1, "1.2.3.4, \xb2", "192.0.2.1"),
        (1, "2001:DB8::0:1", "2001:db8::1"),
        (1, "", "192.0.2.1"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_the_address_of_the_client_at_the_edge(hops: int, said: str, client: str, *, skip: bool) -> None:
    """tests/conformance/test_same_rules.py compares it with Envoy's, too."""
    manager = HttpManager("m", None, "r", use_remote_address=True, xff_num_trusted_hops=hops, skip_xff_append=skip)
    headers = [("x-envoy-external-address", "6.6.6.6"), *([("x-forwarded-for", said)] if said else [])]
    head = request(headers=headers)
    believe(head, manager, Facts("inbound", "192.0.2.1:1", "10.0.0.1:80"))
    assert head.values(b"x-envoy-external-address") == [client.encode()]


def test_only_the_edge_knows_of_the_outside() -> None:
    """A hop within leaves what the edge has said; of an internal request nothing is said."""
    head = request(headers=[("x-envoy-external-address", "1.2.3.4")])
    believe(head, HttpManager("m", None, "r"), Facts("inbound", "10.0.0.9:1", "10.0.0.1:80"))
    assert head.get(b"x-envoy-external-address") == b"1.2.3.4"
    inside = request()
    edge = HttpManager("m", None, "r", use_remote_address=True, internal_networks=INSIDE)
    believe(inside, edge, Facts("inbound", "10.0.0.9:1", "10.0.0.1:80"))
    assert not inside.has(b"x-envoy-external-address")


@pytest.mark.parametrize(
    ("edge", "hops", "append", "said", "expected"),
    [
        (True, 0, True, "", "192.0.2.1"),
        (True, 0, True, "10.0.0.9", "192.0.2.1"),  # nobody before us is believed
        (True, 0, False, "10.0.0.9", "192.0.2.1"),
        (True, 1, True, "1.2.3.4, 5.6.7.8", "5.6.7.8"),
        (True, 1, False, "1.2.3.4, 5.6.7.8", "5.6.7.8"),
        (True, 2, True, "1.2.3.4, 5.6.7.8", "1.2.3.4"),
        (True, 3, True, "1.2.3.4, 5.6.7.8", "192.0.2.1"),
        (False, 0, True, "1.2.3.4, 5.6.7.8", "5.6.7.8"),  # the proxy before us has seen him
        (False, 1, True, "1.2.3.4, 5.6.7.8", "1.2.3.4"),
        (False, 0, True, "2001:DB8::0:1", "2001:db8::1"),
        (False, 0, True, "1.2.3.4, mallory", "192.0.2.1"),
        (False, 0, True, "1.2.3.4:80", "192.0.2.1"),
        (False, 0, True, "fe80::1%eth0", "192.0.2.1"),
        (False, 0, True, "1" * 1000, "192.0.2.1"),
        (False, 0, True, "", "192.0.2.1"),
    ],
)
def test_who_the_client_is_once_all_is_said(edge: bool, hops: int, append: bool, said: str, expected: str) -> None:
    manager = HttpManager(
        "m", None, "r", use_remote_address=edge, xff_num_trusted_hops=hops, skip_xff_append=not append
    )
    head = request(headers=[("x-forwarded-for", said)] if said else [])
    facts = Facts("inbound", "192.0.2.1:4711", "10.0.0.1:80")
    believe(head, manager, facts)
    assert client(head, manager, facts) == expected
