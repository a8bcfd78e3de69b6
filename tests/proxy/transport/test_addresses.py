"""The addresses of a namespace: those the kernel says, loopback left out, read again when they may have changed."""

from pathlib import Path

import pytest

from pymesh_proxy.transport import addresses as module
from pymesh_proxy.transport.addresses import FRESH_SECONDS, cached, own_addresses
from tests.support.netns import Network

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.77.0.0/24 2 0 1
        |-- 10.77.0.0
           /24 link UNICAST
        |-- 10.77.0.2
           /32 host LOCAL
        |-- 10.77.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
"""
IF_INET6 = """\
fd770000000000000000000000000002 02 40 00 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000000000fffe000001 02 40 20 80     eth0
"""


def test_what_the_kernel_lists(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    assert own_addresses(tmp_path) == {"10.77.0.2"}
    (tmp_path / "if_inet6").write_text(IF_INET6)
    assert own_addresses(tmp_path) == {"10.77.0.2", "fd77::2", "fe80::ff:fe00:1"}


@pytest.mark.netns
def test_a_real_namespace() -> None:
    with Network() as net:
        pod = net.pod("a")
        with pod.entered():
            found = own_addresses(Path("/proc/thread-self/net"))
        assert {pod.ip, pod.ipv6} <= found
        assert not found & {"127.0.0.1", "::1"}


def test_an_answer_is_good_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answers = 100.0, iter([frozenset({"a"}), frozenset({"b"})])
    monkeypatch.setattr(module, "monotonic", lambda: now)
    addresses = cached(lambda: next(answers))
    assert addresses() == {"a"}
    now += FRESH_SECONDS / 2
    assert addresses() == {"a"}
    now += FRESH_SECONDS
    assert addresses() == {"b"}
