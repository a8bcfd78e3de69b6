"""The command line: what it makes of itself, and what it refuses in one sentence."""

from importlib.metadata import version
from pathlib import Path

import pytest

from pymesh.errors import MeshError
from pymesh_proxy.options import parse, read_text


def test_without_anything_it_is_the_transparent_sidecar() -> None:
    options = parse([])
    assert (options.listen, options.inbound_listen, options.config, options.discovery) == (15001, None, None, None)
    assert (options.admin, options.admin_given) == (("127.0.0.1", 15000), False)
    assert (options.metrics_port, options.readiness_port) == (15090, 15021)


def test_a_bootstrap_binds_its_own_listeners() -> None:
    assert parse(["--config", "a.yaml"]).listen is None
    assert parse(["--config", "a.yaml", "--listen", "1"]).listen == 1


def test_a_gateway_binds_what_it_is_sent() -> None:
    options = parse(["--gateway", "--discovery", "pilot:15012"])
    assert (options.gateway, options.listen) == (True, None)


def test_hosts_and_ports() -> None:
    assert parse(["--discovery", "[fd00::1]:15012"]).discovery == ("fd00::1", 15012)
    assert parse(["--discovery", "pilot:15012"]).discovery == ("pilot", 15012)
    assert parse(["--admin", "0.0.0.0:0"]).admin == ("0.0.0.0", 0)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--config", "a", "--discovery", "b:1"], "exclude each other"),
        (["--agent"], "--agent needs --discovery"),
        (["--gateway"], "--gateway needs --discovery"),
        (["--gateway", "--discovery", "a:1", "--listen", "1"], "leave out --listen"),
        (["--gateway", "--discovery", "a:1", "--agent"], "and --agent"),
        (["--validate"], "--validate checks a --config FILE"),
        (["x"], "unexpected arguments: x"),
        (["--listen", "70000"], "'70000' is not a port (0 to 65535)"),
        (["--listen", "-1"], "--listen"),
        (["--admin", "15000"], "'15000' is not HOST:PORT"),
        (["--discovery", ":1"], "':1' is not HOST:PORT"),
        (["--log-level", "loud"], "invalid choice: 'loud'"),
        (["--drain-time", "soon"], "--drain-time"),
    ],
)
def test_what_makes_no_sense(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(argv)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"pymesh-proxy {version('pymesh-proxy')}\n"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"a: \xff")
    for path, words in [
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (binary, "is not UTF-8 text: invalid start byte at byte 3"),
    ]:
        with pytest.raises(MeshError, match=words):
            read_text(path)
