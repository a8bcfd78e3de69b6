"""The hooks of a sidecar's container: wait until it is ready; drain, and stay as long as the app does."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pymesh_proxy import hold
from tests.support.netns import Network, Pod
from tests.support.proxy_process import PROXY_UID, PYMESH_PROXY, ProxyProcess, free_port
from tests.support.waiting import eventually_sync

# As in /proc/net/tcp: the app listens and has a connection, the proxy listens, one is in TIME-WAIT.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:2378 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532        0 81 1 0 100 0 0 10 0
   1: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 82 1 0 100 0 0 10 0
   2: 0100007F:2378 0600007F:D431 01 00000000:00000000 00:00000000 00000000 65532        0 83 1 0 20 4 30 10 -1
   3: 0100007F:2378 0600007F:D432 06 00000000:00000000 03:00000F00 00000000     0        0 0 3 0
""".splitlines()

SERVER = "import socket,time; s=socket.create_server(('', 9080)); print('listening', flush=True); time.sleep(60)"


def test_the_apps_sockets_are_those_of_other_users_that_a_process_has() -> None:
    assert hold.app_sockets(TABLE, own_uid=1337) == 2
    assert hold.app_sockets(TABLE[:1] + TABLE[2:3] + TABLE[4:], own_uid=1337) == 0
    assert hold.app_sockets(["", "rubbish", "a " * 12], own_uid=1337) == 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYMESH_PROXY, *arguments], capture_output=True, text=True, timeout=30)


def test_wait_ends_when_the_proxy_is_ready_and_says_what_it_waited_for() -> None:
    port = free_port()
    late = run("wait", "--timeout", "0.2", "--readiness-port", str(port))
    assert late.returncode == 1
    assert "not ready within 0.2 s: [Errno 111] Connection refused" in late.stderr
    with subprocess.Popen([*PYMESH_PROXY, "wait", "--readiness-port", str(port)]) as waiting:
        # The proxy comes later than whoever waits for it.
        with ProxyProcess("--listen", str(free_port())) as proxy:
            assert waiting.poll() is None
        arguments = [*PYMESH_PROXY, "--listen", str(free_port()), "--admin", f"127.0.0.1:{proxy.admin}"]
        with subprocess.Popen([*arguments, "--metrics-port", "0", "--readiness-port", str(port)]) as ready:
            assert waiting.wait(20) == 0
            ready.kill()


def test_drain_tells_the_proxy_and_complains_where_there_is_none() -> None:
    with ProxyProcess("--listen", str(free_port())) as proxy:
        assert run("drain", "--admin-port", str(proxy.admin)).returncode == 0
        assert "draining" in proxy.get("/ready").text
    gone = run("drain", "--admin-port", str(proxy.admin))
    assert (gone.returncode, "does not drain" in gone.stderr) == (1, True)


def test_a_hook_loads_nothing_of_the_proxy() -> None:
    script = "import sys; from pymesh_proxy.__main__ import main; main(['drain']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert not {"asyncio", "uvloop", "google.protobuf", "h2"} & set(done.stdout.split())


@pytest.fixture
def pod() -> Iterator[Pod]:
    with Network() as net:
        yield net.pod("a")


@pytest.mark.netns
def test_drain_stays_until_the_app_has_ended(pod: Pod) -> None:
    app = pod.popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
    assert app.stdout is not None
    assert app.stdout.readline() == "listening\n"
    draining = pod.popen([*PYMESH_PROXY, "drain", "--until-app-ends", "60"], user=PROXY_UID)
    # It has looked at the sockets, more than once.
    switches = f"/proc/{draining.pid}/status"
    eventually_sync(lambda: _waits(switches) > 3)
    assert draining.poll() is None
    app.kill()
    app.wait()
    assert draining.wait(20) == 1, "there was no proxy to tell"
    begun = time.monotonic()
    assert pod.popen([*PYMESH_PROXY, "drain", "--until-app-ends", "0"], user=PROXY_UID).wait(20) == 1
    assert time.monotonic() - begun < hold.QUIET


def _waits(path: str) -> int:
    with open(path) as status:  # noqa: PTH123  one line of proc(5)
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
