"""What is run to make the network, and whether packets then go where they should."""

import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.local import network, processes
from pymesh_controlplane.local.network import AddressPool, Frontend, Network
from tests.support.outside import Outside
from tests.support.waiting import eventually

MESH = f"n{os.getpid()}"


def test_translation_spreads_connections_evenly() -> None:
    rules = network.rules(
        [Frontend("10.96.0.11", 80, "TCP", tuple((f"10.244.0.{n}", 8080) for n in (2, 3, 4)))], [], []
    )
    lines = [line for line in rules.splitlines() if "10.96.0.11" in line]
    assert [line.partition("--probability ")[2].partition(" ")[0] for line in lines] == ["0.33333333", "0.50000000", ""]
    assert all(line.startswith("-A PREROUTING -d 10.96.0.11/32 -p tcp --dport 80 ") for line in lines)


def test_a_service_without_endpoints_is_not_translated_and_so_refused() -> None:
    rules = network.rules([Frontend("10.96.0.11", 80, "TCP", ())], [], [])
    assert "10.96.0.11" not in rules
    assert "-A FORWARD -d 10.96.0.0/16 -j REJECT" in rules


def test_names_fit_and_belong_to_one_mesh_only() -> None:
    assert len(network.link_name("10.244.255.254")) <= 15
    assert network.pod_namespace("a", "default", "web") == "pymesh-a-web.default"
    assert network.mac_address("10.244.1.2") == "0a:58:0a:f4:01:02"


def test_addresses_are_reused_as_late_as_possible() -> None:
    pool = AddressPool()
    assert [pool.take(set()), pool.take(set())] == ["10.244.0.2", "10.244.0.3"]
    assert pool.take({"10.244.0.4"}) == "10.244.0.5"


def test_addresses_run_out_with_a_sentence() -> None:
    everything = {str(address) for address in network.POD_NETWORK}
    with pytest.raises(MeshError, match=r"all addresses of 10\.244\.0\.0/16 are taken"):
        AddressPool().take(everything)


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ip").write_text("#!/bin/sh\n")
    (tmp_path / "ip").chmod(0o755)
    with pytest.raises(MeshError, match=r"PATH does not lead to: export PATH=|apt-get install iptables"):
        network.check_programs(str(tmp_path))
    monkeypatch.setattr(network, "PROGRAMS", {"pymesh-no-such-program": "some-package"})
    with pytest.raises(MeshError, match=r"pymesh-no-such-program not found.*apt-get install some-package"):
        network.check_programs("/usr/sbin:/usr/bin")


@pytest.fixture
async def net() -> AsyncIterator[Network]:
    network.remove_namespaces(MESH)
    made = Network(MESH)
    try:
        await made.create()
        yield made
    finally:
        network.remove_namespaces(MESH)


def inside(pod: str, *command: str) -> subprocess.CompletedProcess[str]:
    name = network.pod_namespace(MESH, "default", pod)
    return subprocess.run(["ip", "netns", "exec", name, *command], capture_output=True, text=True, timeout=20)


def fetch(pod: str, url: str) -> str:
    done = inside(pod, "curl", "-sS", "-m", "2", url)
    return done.stdout.strip() or done.stderr.strip()


@pytest.mark.netns
async def test_pods_reach_each_other_services_and_themselves(net: Network, tmp_path: Path) -> None:
    addresses = {"a": "10.244.0.2", "b": "10.244.0.3"}
    servers = []
    try:
        for pod, address in addresses.items():
            path = await net.add_pod("default", pod, address)
            (tmp_path / pod).mkdir()
            (tmp_path / pod / "name").write_text(pod)
            serve = ["python3", "-m", "http.server", "80", "--directory", str(tmp_path / pod)]
            servers.append(
                subprocess.Popen(
                    ["nsenter", f"--net={path}", *serve], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            )
        one = [Frontend("10.96.0.11", 1080, "TCP", (("10.244.0.2", 80),))]
        both = [Frontend("10.96.0.12", 80, "TCP", tuple((address, 80) for address in addresses.values()))]
        nobody = [Frontend("10.96.0.13", 80, "TCP", ())]
        await net.serve([*one, *both, *nobody], list(addresses.values()))
        for _ in range(50):
            if fetch("b", "http://10.244.0.2/name") == "a" and fetch("a", "http://10.244.0.3/name") == "b":
                break
        assert fetch("a", "http://10.244.0.3/name") == "b"
        assert fetch("b", "http://10.96.0.11:1080/name") == "a"
        assert fetch("a", "http://10.96.0.11:1080/name") == "a", "a pod reaches itself through its Service"
        assert {fetch("a", "http://10.96.0.12/name") for _ in range(30)} == {"a", "b"}
        assert "Connection refused" in fetch("a", "http://10.96.0.13/") or "Couldn't connect" in fetch(
            "a", "http://10.96.0.13/"
        )
        await net.serve(nobody, list(addresses.values()))
        assert "onnect" in fetch("b", "http://10.96.0.11:1080/name")
    finally:
        for server in servers:
            server.kill()
            server.wait()
            if server.stdout:
                server.stdout.close()


@pytest.mark.netns
async def test_only_those_who_may_reach_what_is_outside_and_nobody_comes_in(net: Network) -> None:
    gateway, other = "10.244.0.2", "10.244.0.3"
    await net.add_pod("default", "gateway", gateway)
    await net.add_pod("default", "other", other)
    with Outside(net.namespace) as outside, outside.namespace.listen((outside.host(10), 80)) as listener:

        def reach(pod: str) -> str:
            done = inside(pod, "bash", "-c", "exec 3<>/dev/tcp/203.0.113.10/80")
            return "connected" if done.returncode == 0 else done.stderr

        assert "No route to host" in reach("gateway")
        await net.serve([], [gateway, other], [gateway])
        assert reach("gateway") == "connected"
        with listener.accept()[0] as accepted:
            assert accepted.getpeername()[0] == gateway
        assert "No route to host" in reach("other")
        inward = outside.namespace.run(["bash", "-c", f"exec 3<>/dev/tcp/{gateway}/80"], check=False)
        assert "No route to host" in inward.stderr
        with net.socket(socket.SOCK_STREAM) as dns:  # what the mesh itself listens on
            dns.bind((network.DNS_ADDRESS, 53))
            dns.listen()
            subprocess.run(["ip", "-n", outside.namespace.name, "route", "add", "10.96.0.0/16", "via", "203.0.113.1"])
            own = outside.namespace.run(["bash", "-c", f"exec 3<>/dev/tcp/{network.DNS_ADDRESS}/53"], check=False)
            assert "No route to host" in own.stderr
            assert inside("other", "bash", "-c", f"exec 3<>/dev/tcp/{network.DNS_ADDRESS}/53").returncode == 0


@pytest.mark.netns
async def test_removing_a_pod_ends_what_runs_in_it(net: Network) -> None:
    path = await net.add_pod("default", "a", "10.244.0.2")
    with subprocess.Popen(["nsenter", f"--net={path}", "sleep", "60"]) as process:
        await eventually(lambda: process.pid in processes.in_network_namespace(path))
        await net.remove_pod("default", "a", "10.244.0.2")
        assert process.wait() == -9
    assert not path.exists()
    await net.remove_pod("default", "a", "10.244.0.2")
    # Its address and name are free at once.
    await net.add_pod("default", "a", "10.244.0.2")


@pytest.mark.netns
async def test_the_gateways_hardware_address_stays_when_pods_come_and_go(net: Network) -> None:
    """A bridge takes the lowest address of its ports unless it is given one; pods would go on asking the old one."""

    def address() -> str:
        show = ["ip", "-n", net.namespace, "-o", "link", "show", network.BRIDGE]
        return (
            subprocess.run(show, capture_output=True, text=True, check=True).stdout.split("link/ether ")[1].split()[0]
        )

    seen = {address()}
    for number in range(2, 10):
        await net.add_pod("default", f"p{number}", f"10.244.0.{number}")
        seen.add(address())
    assert seen == {network.mac_address(network.GATEWAY)}


@pytest.mark.netns
async def test_the_host_is_not_touched(net: Network) -> None:
    def host() -> list[str]:
        commands = (["ip", "-o", "link"], ["ip", "route", "show", "table", "all"], ["iptables-save"])
        return [subprocess.run(command, capture_output=True, text=True).stdout for command in commands]

    before, forward = host(), Path("/proc/sys/net/ipv4/ip_forward").read_text()
    await net.add_pod("default", "a", "10.244.0.2")
    await net.serve([Frontend("10.96.0.11", 80, "TCP", (("10.244.0.2", 80),))], ["10.244.0.2"])
    strip = [line for text in before for line in text.splitlines() if not line.startswith("#")]
    assert [line for text in host() for line in text.splitlines() if not line.startswith("#")] == strip
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forward


@pytest.mark.netns
async def test_a_failing_command_is_told_with_its_output(net: Network) -> None:
    await net.add_pod("default", "a", "10.244.0.2")
    with pytest.raises(MeshError, match="File exists"):
        await net.add_pod("default", "a", "10.244.0.2")
