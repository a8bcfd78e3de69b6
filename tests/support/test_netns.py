"""The pods that other tests stand on."""

import contextlib
import signal
import subprocess
import sys

import pytest

from tests.support import netns
from tests.support.netns import Network

pytestmark = pytest.mark.netns

WAIT = "import sys; sys.stdin.read()"


@pytest.mark.parametrize("family", ["ip", "ipv6"])
def test_pods_reach_each_other_over_both_families(family: str) -> None:
    with Network() as net:
        a, b = net.pod("a"), net.pod("b")
        with b.listen((getattr(b, family), 0)) as server, a.connect(server.getsockname()[:2]) as client:
            accepted, peer = server.accept()
            with accepted:
                assert peer[0] == getattr(a, family)
                client.sendall(b"hello")
                assert accepted.recv(16) == b"hello"


def test_a_process_runs_as_the_user_asked_for_without_other_groups() -> None:
    program = "import os; print(os.getuid(), os.getgid(), os.getgroups())"
    with Network() as net:
        done = net.pod("a").run([sys.executable, "-c", program], user=1337)
    assert done.stdout == "1337 1337 []\n"


def test_a_failed_command_shows_its_output() -> None:
    with Network() as net, pytest.raises(AssertionError, match="no-such-link"):
        net.pod("a").run(["ip", "link", "show", "no-such-link"])


def test_leaving_removes_namespaces_and_processes_even_after_an_error() -> None:
    with contextlib.suppress(ZeroDivisionError), Network() as net:
        process = net.pod("a").popen([sys.executable, "-c", WAIT], stdin=subprocess.PIPE)
        names = [net.switch.name, net.pods["a"].name]
        assert all((netns.NAMESPACES / name).exists() for name in names)
        1 // 0  # noqa: B018  the test that fails in the middle
    assert process.returncode == -9
    assert not any((netns.NAMESPACES / name).exists() for name in names)


def test_the_next_network_removes_what_a_killed_run_left() -> None:
    program = "import os, signal; from tests.support.netns import Network\n"
    program += "net = Network().__enter__(); net.pod('a').popen(['sleep', '300'])\n"
    program += "print(net.pods['a'].name, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout
        name = killed.stdout.readline().strip()
        assert killed.wait() == -signal.SIGKILL
        assert (netns.NAMESPACES / name).exists()
        with Network():
            assert not (netns.NAMESPACES / name).exists()
        assert killed.stdout.read() == ""  # the end of file: `sleep`, which held the pipe open, is gone too
