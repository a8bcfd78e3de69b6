"""The redirect against a real kernel: one test for each statement about interception, in both address families.

The sidecar is played by a witness that runs as uid 1337 and says what it accepted; which way that goes is decided by
the sidecar's own `classify`. Pod `a` has the redirect, `b` is a neighbour without one.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pymesh_proxy.config.model import Direction
from pymesh_proxy.transport.direction import Refused, classify
from tests.support.netns import Address, Network, Pod
from tests.support.witness import Report, ask, serve

pytestmark = [pytest.mark.netns, pytest.mark.e2e]

PROXY = 1337
PYMESH_INIT = [sys.executable, "-m", "pymesh_proxy.redirect"]


@dataclass(frozen=True)
class Family:
    """What differs between IPv4 and IPv6."""

    name: str
    anywhere: str
    loopback: str
    inbound_source: str
    foreign: str
    iptables: str

    def ip(self, pod: Pod) -> str:
        """The pod's address in this family."""
        return pod.ip if self.name == "ipv4" else pod.ipv6


IPV4 = Family("ipv4", "0.0.0.0", "127.0.0.1", "127.0.0.6", "198.51.100.5", "iptables")
IPV6 = Family("ipv6", "::", "::1", "::6", "2001:db8::5", "ip6tables")


@pytest.fixture(scope="module", params=[IPV4, IPV6], ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    assert isinstance(request.param, Family)
    return request.param


@dataclass(frozen=True)
class World:
    net: Network
    a: Pod
    b: Pod


def play_the_sidecar(pod: Pod, *ports: int) -> None:
    serve(pod, "proxy", *((host, port) for host in ("0.0.0.0", "::") for port in ports), user=PROXY)


def play_the_app(pod: Pod, *ports: int, name: str = "app") -> None:
    serve(pod, name, *((host, port) for host in ("0.0.0.0", "::") for port in ports))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Network() as net:
        a, b = net.pod("a"), net.pod("b")
        play_the_sidecar(a, 15001)
        play_the_app(a, 22, 9080, 15000, 15020, 15021, 15090)
        play_the_app(b, 9080, 15001, name="b")
        a.run(PYMESH_INIT)
        yield World(net, a, b)


def way(report: Report, pod: Pod, *ports: int) -> Direction | Refused:
    own = frozenset({pod.ip, pod.ipv6})
    return classify(report.local, report.peer, report.original, own, ports or (15001,))


# --- nat OUTPUT, line by line --------------------------------------------------------------------------------------


def test_line_1_what_the_sidecar_dials_from_the_inbound_source_reaches_the_app(world: World, family: Family) -> None:
    report = ask(world.a, (family.ip(world.a), 9080), user=PROXY, source=family.inbound_source)
    assert report.server == "app"
    assert report.peer[0] == family.inbound_source


def test_line_2_what_the_sidecar_dials_in_its_own_pod_comes_back_as_inbound(world: World, family: Family) -> None:
    own = family.ip(world.a)
    report = ask(world.a, (own, 9080), user=PROXY)
    assert (report.server, report.local, report.original) == ("proxy", (family.loopback, 15001), (own, 9080))
    assert way(report, world.a) is Direction.INBOUND


def test_line_2_leaves_out_loopback_where_the_sidecar_reaches_what_listens_there(world: World, family: Family) -> None:
    assert ask(world.a, (family.loopback, 9080), user=PROXY).server == "app"


def test_line_3_the_app_reaches_itself_without_the_sidecar(world: World, family: Family) -> None:
    assert ask(world.a, (family.ip(world.a), 9080)).server == "app"
    assert ask(world.a, (family.loopback, 9080)).server == "app"


def test_line_4_what_the_sidecar_sends_is_not_sent_back_to_it(world: World, family: Family) -> None:
    report = ask(world.a, (family.ip(world.b), 9080), user=PROXY)
    assert report.server == "b"
    assert report.peer[0] == family.ip(world.a)


def test_line_5_loopback_addresses_are_left_alone_on_any_interface(world: World) -> None:
    # Only a pod that allows it (route_localnet) and routes a part of 127.0.0.0/8 elsewhere ever gets to this line.
    for pod in (world.a, world.b):
        pod.run(["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"])
    world.a.run(["ip", "route", "add", "127.9.9.9/32", "via", world.b.ip, "table", "local"])
    assert ask(world.a, ("127.9.9.9", 9080), source=world.a.ip).server == "b"


def test_line_6_what_the_app_sends_into_the_world_goes_to_the_sidecar(world: World, family: Family) -> None:
    target = (family.ip(world.b), 9080)
    report = ask(world.a, target)
    assert (report.server, report.local, report.original) == ("proxy", (family.loopback, 15001), target)
    assert way(report, world.a) is Direction.OUTBOUND


def test_the_sidecars_port_on_another_machine_is_a_destination_like_any_other(world: World, family: Family) -> None:
    report = ask(world.a, (family.ip(world.b), 15001))
    assert report.server == "proxy"
    assert way(report, world.a) is Direction.OUTBOUND


# --- From outside --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [9080, 22, 15000, 4321])
def test_what_comes_from_outside_goes_to_the_sidecar(world: World, family: Family, port: int) -> None:
    own = family.ip(world.a)
    report = ask(world.b, (own, port))
    assert (report.server, report.original) == ("proxy", (own, port))
    assert report.local == (own, 15001)
    assert way(report, world.a) is Direction.INBOUND


@pytest.mark.parametrize("port", [15020, 15021, 15090])
def test_probes_and_metrics_are_not_redirected(world: World, family: Family, port: int) -> None:
    assert ask(world.b, (family.ip(world.a), port)).server == "app"


# --- Refused -------------------------------------------------------------------------------------------------------


def test_a_neighbour_that_routes_foreign_destinations_through_the_pod_is_refused(world: World, family: Family) -> None:
    target = (family.foreign, 443)
    via = [family.foreign, "via", family.ip(world.a)]
    world.b.run(["ip", "route", "replace", *via])

    stolen = ask(world.b, target)
    assert (stolen.server, stolen.original) == ("proxy", target)
    answer = way(stolen, world.a)
    assert isinstance(answer, Refused)
    assert "through this pod, which does not own that address" in answer.reason

    # The same destination, dialled by the pod's own app: only the local address tells the two apart.
    own = ask(world.a, target)
    assert own.original == stolen.original
    assert way(own, world.a) is Direction.OUTBOUND


@pytest.mark.parametrize("who", ["a neighbour", "the app", "the app over loopback", "the sidecar"])
def test_dialling_the_sidecars_own_port_is_refused(world: World, family: Family, who: str) -> None:
    own = family.ip(world.a)
    report = {
        "a neighbour": lambda: ask(world.b, (own, 15001)),
        "the app": lambda: ask(world.a, (own, 15001)),
        "the app over loopback": lambda: ask(world.a, (family.loopback, 15001)),
        "the sidecar": lambda: ask(world.a, (own, 15001), user=PROXY),
    }[who]()
    assert report.server == "proxy"
    answer = way(report, world.a)
    assert isinstance(answer, Refused)
    assert "connected to the proxy's own listener" in answer.reason


def test_without_any_redirect_there_is_no_original_destination_and_it_is_refused(family: Family) -> None:
    with Network() as net:
        pod = net.pod("bare")
        play_the_sidecar(pod, 15001)
        report = ask(pod, (family.ip(pod), 15001))
        assert report.original is None
        answer = way(report, pod)
        assert isinstance(answer, Refused)
        assert "no original destination is known" in answer.reason


# --- Listeners of another shape ------------------------------------------------------------------------------------


def test_one_dual_stack_listener_serves_both_families(family: Family) -> None:
    with Network() as net:
        a, b = net.pod("a"), net.pod("b")
        serve(a, "proxy", ("::", 15001), user=PROXY, dual_stack=True)
        a.run(PYMESH_INIT)
        inbound = ask(b, (family.ip(a), 9080))
        assert inbound.original == (family.ip(a), 9080)
        assert way(inbound, a) is Direction.INBOUND
        outbound = ask(a, (family.ip(b), 9080))
        assert outbound.original == (family.ip(b), 9080)
        assert way(outbound, a) is Direction.OUTBOUND


def test_a_port_for_inbound_alone_gets_all_that_is_inbound(family: Family) -> None:
    with Network() as net:
        a, b = net.pod("a"), net.pod("b")
        play_the_sidecar(a, 15001, 15006)
        a.run([*PYMESH_INIT, "--inbound-port", "15006"])
        own = family.ip(a)
        cases: list[tuple[Report, int, Direction]] = [
            (ask(b, (own, 9080)), 15006, Direction.INBOUND),
            (ask(a, (own, 9080), user=PROXY), 15006, Direction.INBOUND),
            (ask(a, (family.ip(b), 9080)), 15001, Direction.OUTBOUND),
        ]
        for report, port, direction in cases:
            assert report.server == "proxy"
            assert report.local[1] == port
            assert way(report, a, 15001, 15006) is direction
        looped = ask(b, (own, 15001))
        assert isinstance(way(looped, a, 15001, 15006), Refused)


# --- What a person may choose --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def choices() -> Iterator[World]:
    """As `world`, with a second port on each side; each test sets the redirect that it is about."""
    with Network() as net:
        a, b = net.pod("a"), net.pod("b")
        play_the_sidecar(a, 15001)
        play_the_app(a, 9080, 9081)
        play_the_app(b, 9080, 9081, name="b")
        yield World(net, a, b)


def servers(world: World, family: Family, *options: str) -> tuple[str, str, str, str]:
    """Who answers, with these options: a's ports 9080 and 9081 to b, then b's ports 9080 and 9081 to a."""
    world.a.run([*PYMESH_INIT, *options])
    from_outside: list[Address] = [(family.ip(world.a), port) for port in (9080, 9081)]
    to_outside: list[Address] = [(family.ip(world.b), port) for port in (9080, 9081)]
    inbound = [ask(world.b, address).server for address in from_outside]
    outbound = [ask(world.a, address).server for address in to_outside]
    return inbound[0], inbound[1], outbound[0], outbound[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param([], ("proxy", "proxy", "proxy", "proxy"), id="nothing"),
        pytest.param(["-d", "9081"], ("proxy", "app", "proxy", "proxy"), id="exclude-inbound-port"),
        pytest.param(["-b", "9081"], ("app", "proxy", "proxy", "proxy"), id="include-inbound-port"),
        pytest.param(["-b", "9080,9081", "-d", "9081"], ("proxy", "app", "proxy", "proxy"), id="exclusion-wins"),
        pytest.param(["-b", ""], ("app", "app", "proxy", "proxy"), id="no-inbound"),
        pytest.param(["-o", "9081"], ("proxy", "proxy", "proxy", "b"), id="exclude-outbound-port"),
        pytest.param(["-i", ""], ("proxy", "proxy", "b", "b"), id="no-outbound"),
        pytest.param(["-i", "", "-q", "9081"], ("proxy", "proxy", "b", "proxy"), id="include-outbound-port"),
        pytest.param(["-x", "10.77.0.3/32,fd77::3/128"], ("proxy", "proxy", "b", "b"), id="exclude-range"),
        pytest.param(["-x", "192.0.2.0/24,2001:db8::/32"], ("proxy",) * 4, id="exclude-another-range"),
        pytest.param(["-i", "10.77.0.0/24,fd77::/64"], ("proxy",) * 4, id="include-range"),
        pytest.param(["-i", "192.0.2.0/24,2001:db8::/32"], ("proxy", "proxy", "b", "b"), id="include-another-range"),
        pytest.param(["-i", "0.0.0.0/0,::/0"], ("proxy",) * 4, id="include-all-as-a-range"),
        pytest.param(["-c", "eth0"], ("app", "app", "b", "b"), id="exclude-interface"),
        pytest.param(["-c", "eth+"], ("app", "app", "b", "b"), id="exclude-interfaces-by-wildcard"),
        pytest.param(["-c", "eth1"], ("proxy",) * 4, id="exclude-another-interface"),
    ],
)
def test_include_and_exclude(choices: World, family: Family, options: list[str], expected: tuple[str, ...]) -> None:
    assert servers(choices, family, *options) == expected


def test_another_uid_may_be_the_sidecars(choices: World, family: Family) -> None:
    choices.a.run([*PYMESH_INIT, "-u", "4242"])
    target = (family.ip(choices.b), 9080)
    assert ask(choices.a, target, user=4242).server == "b"
    assert ask(choices.a, target, user=PROXY).server == "proxy"


def test_a_group_is_the_sidecars_only_if_asked_for(choices: World, family: Family) -> None:
    def as_group_1337(address: Address) -> str:
        program = f"import socket; print(socket.create_connection({address!r}, 5).makefile().read())"
        argv = ["setpriv", "--regid=1337", "--clear-groups", sys.executable, "-c", program]
        return Report.parse(choices.a.run(argv).stdout).server

    world, itself = (family.ip(choices.b), 9080), (family.ip(choices.a), 9080)
    choices.a.run(PYMESH_INIT)
    assert (as_group_1337(world), as_group_1337(itself)) == ("proxy", "app")
    choices.a.run([*PYMESH_INIT, "-g", "1337"])
    assert (as_group_1337(world), as_group_1337(itself)) == ("b", "proxy")
    assert ask(choices.a, itself).server == "app"
    assert ask(choices.a, world, user=PROXY).server == "b"


# --- The page about it ---------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_work() -> None:
    page = Path(__file__).parents[2] / "docs" / "redirect.md"
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    # A reader types them one after the other in one shell. Here it has namespaces of its own: nothing is left behind.
    alone = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    prelude = "set -eu\nmkdir -p /run/netns && mount -t tmpfs none /run/netns\n"
    done = subprocess.run(
        [*alone, "sh", "-c", prelude + "".join(blocks)],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(blocks) >= 8
    assert "original destination 10.0.0.2:9080" in done.stdout
    assert done.stdout.endswith("IPv4: no rules of pymesh-init\nIPv6: no rules of pymesh-init\n")
