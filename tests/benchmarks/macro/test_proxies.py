"""Which proxies there are, and which of them are run."""

import sys
from pathlib import Path

import pytest

from benchmarks.macro import proxies
from benchmarks.macro.proxies import PROXIES, Program, Proxy
from pymesh.errors import MeshError

ABSENT = Program("absent", "no-such-program", ("-v",), "apt-get install absent")


def test_pymesh_and_envoy_read_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "bootstrap.yaml").touch()
    ours, theirs = (PROXIES[name].template(tmp_path) for name in proxies.NEEDED)
    assert ours == theirs


def test_a_proxy_has_the_first_of_its_files_that_is_there(tmp_path: Path) -> None:
    proxy = Proxy(ABSENT, ("own.yaml", "shared.yaml"), ())
    assert not proxy.has_template(tmp_path)
    with pytest.raises(MeshError, match=r"absent has no own.yaml or shared.yaml in"):
        proxy.template(tmp_path)
    (tmp_path / "shared.yaml").touch()
    assert proxy.template(tmp_path).name == "shared.yaml"
    (tmp_path / "own.yaml").touch()
    assert proxy.template(tmp_path).name == "own.yaml"


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("/a/3.11/envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12-1+deb12u4"),
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0-3+b2"),
        ("what?", "unknown"),
    ],
)
def test_versions(said: str, version: str) -> None:
    assert proxies.parse_version(said) == version


def test_a_program_says_its_version() -> None:
    python = Program("python", sys.executable, ("--version",), "")
    assert python.version() == ".".join(map(str, sys.version_info[:3]))


def test_a_missing_program_is_named_with_what_installs_it() -> None:
    with pytest.raises(MeshError, match=r"absent is not installed: apt-get install absent"):
        ABSENT.require()


def test_a_command_line_has_the_configuration_in_it() -> None:
    command = PROXIES["pymesh"].command(Path("/folder/bootstrap.yaml"))
    assert command[:5] == [sys.executable, "-m", "pymesh_proxy", "--config", "/folder/bootstrap.yaml"]
    folder = Proxy(Program("python", sys.executable, (), ""), (), ("--folder=${FOLDER}",))
    assert folder.command(Path("/folder/config.yaml"))[1:] == ["--folder=/folder"]


@pytest.fixture
def only_pymesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing else is installed."""
    for name, proxy in PROXIES.items():
        if name != proxies.PYMESH:
            program = Program(name, f"no-such-{name}", (), f"install {name}")
            monkeypatch.setitem(PROXIES, name, Proxy(program, proxy.configs, proxy.arguments))


@pytest.mark.usefixtures("only_pymesh")
def test_the_reference_is_needed() -> None:
    with pytest.raises(MeshError, match="envoy is not installed: install envoy"):
        proxies.choose([])


@pytest.mark.usefixtures("only_pymesh")
def test_a_proxy_that_was_asked_for_is_needed() -> None:
    with pytest.raises(MeshError, match="haproxy is not installed"):
        proxies.choose(["pymesh", "haproxy"])
    chosen, skipped = proxies.choose(["pymesh"])
    assert ([proxy.name for proxy in chosen], skipped) == (["pymesh"], [])


def test_others_are_left_out_visibly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("haproxy", "nginx", "envoy", "mitmproxy"):
        program = ABSENT if name == "haproxy" else Program(name, sys.executable, (), "")
        monkeypatch.setitem(PROXIES, name, Proxy(program, (), ()))
    chosen, skipped = proxies.choose([])
    assert [proxy.name for proxy in chosen] == ["pymesh", "pymesh-without", "envoy", "nginx", "mitmproxy"]
    assert skipped == ["haproxy is left out: it is not installed (apt-get install absent)"]


def test_an_unknown_proxy_is_refused_with_those_there_are() -> None:
    with pytest.raises(MeshError, match="unknown proxy traefik: choose from pymesh, pymesh-without, envoy"):
        proxies.choose(["traefik"])
