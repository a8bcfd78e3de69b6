"""Which way a connection goes, one case after the other. The same cases run against a kernel in tests/e2e."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.config.model import Direction
from pymesh_proxy.transport.direction import Address, Refused, classify

POD = "10.244.0.7"
POD6 = "fd00::7"
OWN = frozenset({POD, POD6})
NEIGHBOUR = ("10.244.0.9", 41000)
NEIGHBOUR6 = ("fd00::9", 41000)
PORTS = frozenset({15001, 15006})


def decide(local: Address, original: Address | None, peer: Address = NEIGHBOUR) -> Direction | str:
    """The direction, or the reason of the refusal."""
    answer = classify(local, peer, original, OWN, PORTS)
    return answer.reason if isinstance(answer, Refused) else answer


@pytest.mark.parametrize(
    ("local", "original", "expected"),
    [
        pytest.param((POD, 15001), (POD, 9080), Direction.INBOUND, id="from-outside"),
        pytest.param((POD6, 15001), (POD6, 9080), Direction.INBOUND, id="from-outside-ipv6"),
        pytest.param(("fe80::1%eth0", 15001), (POD6, 9080), Direction.INBOUND, id="from-outside-local-with-scope"),
        pytest.param((f"::ffff:{POD}", 15001), (POD, 9080), Direction.INBOUND, id="from-outside-dual-stack"),
        pytest.param((POD, 15001), (f"::ffff:{POD}", 9080), Direction.INBOUND, id="from-outside-mapped-original"),
        pytest.param(("127.0.0.1", 15001), (POD, 9080), Direction.INBOUND, id="a-pod-calling-itself"),
        pytest.param(("::1", 15001), (POD6, 9080), Direction.INBOUND, id="a-pod-calling-itself-ipv6"),
        pytest.param(("127.0.0.1", 15001), ("10.96.0.1", 80), Direction.OUTBOUND, id="to-the-world"),
        pytest.param(("::1", 15001), ("fd00:96::1", 80), Direction.OUTBOUND, id="to-the-world-ipv6"),
        pytest.param(("::ffff:127.0.0.1", 15001), ("10.96.0.1", 80), Direction.OUTBOUND, id="to-the-world-dual-stack"),
        pytest.param(("127.0.0.1", 15001), ("192.0.2.1", 15001), Direction.OUTBOUND, id="to-15001-of-somebody-else"),
    ],
)
def test_directions(local: Address, original: Address, expected: Direction) -> None:
    assert decide(local, original) is expected


@pytest.mark.parametrize("local", [(POD, 15001), ("127.0.0.1", 15001), ("::1", 15001)])
def test_a_connection_without_an_original_destination_is_refused(local: Address) -> None:
    reason = decide(local, None)
    assert isinstance(reason, str)
    assert reason.startswith("10.244.0.9:41000 connected to ")
    assert reason.endswith("no original destination is known, so the connection was not redirected")


@pytest.mark.parametrize(
    ("local", "original"),
    [
        pytest.param((POD, 15001), (POD, 15001), id="from-outside"),
        pytest.param((POD6, 15001), (POD6, 15001), id="from-outside-ipv6"),
        pytest.param((POD, 15001), (POD, 15006), id="from-outside-to-the-other-listener"),
        pytest.param(("127.0.0.1", 15001), ("127.0.0.1", 15001), id="over-loopback"),
        pytest.param(("::ffff:127.0.0.1", 15001), ("127.0.0.1", 15001), id="over-loopback-dual-stack"),
        pytest.param(("127.0.0.1", 15001), (POD, 15001), id="the-proxy-itself-redirected"),
        pytest.param(("127.0.0.1", 15001), ("127.0.0.9", 15006), id="another-loopback-address"),
        pytest.param((POD, 15099), (POD, 15099), id="a-listener-nobody-listed"),
    ],
)
def test_the_proxys_own_listener_is_refused(local: Address, original: Address) -> None:
    reason = decide(local, original)
    assert isinstance(reason, str)
    assert "connected to the proxy's own listener" in reason


@pytest.mark.parametrize(
    ("local", "original", "peer", "shown"),
    [
        pytest.param((POD, 15001), ("198.51.100.5", 443), NEIGHBOUR, "198.51.100.5:443", id="ipv4"),
        pytest.param((POD6, 15001), ("2001:db8::5", 443), NEIGHBOUR6, "[2001:db8::5]:443", id="ipv6"),
        pytest.param((f"::ffff:{POD}", 15001), ("198.51.100.5", 443), NEIGHBOUR, "198.51.100.5:443", id="dual-stack"),
        pytest.param((POD, 15001), ("127.0.0.1", 9080), NEIGHBOUR, "127.0.0.1:9080", id="our-loopback-from-outside"),
    ],
)
def test_a_foreign_destination_from_outside_is_refused(
    local: Address, original: Address, peer: Address, shown: str
) -> None:
    reason = decide(local, original, peer)
    assert isinstance(reason, str)
    assert f"sent a connection for {shown} through this pod, which does not own that address" in reason


addresses = st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))


@given(local=addresses, peer=addresses, original=st.none() | addresses)
def test_nothing_from_outside_ever_goes_out(local: Address, peer: Address, original: Address | None) -> None:
    answer = classify(local, peer, original, OWN, PORTS)
    if answer is Direction.OUTBOUND:
        assert local[0].startswith("127.") or local[0] == "::1"
