"""The command line: what each option means, in its short and its long form, and what is refused in which words."""

import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_network

import pytest

from pymesh_proxy.redirect.__main__ import main
from pymesh_proxy.redirect.restore import install_script
from pymesh_proxy.redirect.rules import Family, RedirectOptions, families, rule_set

DEFAULT = RedirectOptions()


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["-p", "4140"], replace(DEFAULT, proxy_port=4140)),
        (["--proxy-port", "4140"], replace(DEFAULT, proxy_port=4140)),
        (["-z", "15006"], replace(DEFAULT, inbound_port=15006)),
        (["--inbound-port=15006"], replace(DEFAULT, inbound_port=15006)),
        (["-u", "2102"], replace(DEFAULT, proxy_uid=2102)),
        (["-g", "1337"], replace(DEFAULT, proxy_gid=1337)),
        (["-b", "80, 443"], replace(DEFAULT, include_inbound_ports=(80, 443))),
        (["-b", "*"], DEFAULT),
        (["-b", ""], replace(DEFAULT, include_inbound_ports=())),
        (["-d", "22"], replace(DEFAULT, exclude_inbound_ports=(22,))),
        (["-i", "10.0.0.0/8,fd00::/8"], replace(DEFAULT, include_outbound_ranges=(
            ip_network("10.0.0.0/8"), ip_network("fd00::/8")))),
        (["-i", "*"], DEFAULT),
        (["-i", ""], replace(DEFAULT, include_outbound_ranges=())),
        (["-x", "192.0.2.7"], replace(DEFAULT, exclude_outbound_ranges=(ip_network("192.0.2.7/32"),))),
        (["-q", "443"], replace(DEFAULT, include_outbound_ports=(443,))),
        (["-o", "25"], replace(DEFAULT, exclude_outbound_ports=(25,))),
        (["-c", "eth1,net+"], replace(DEFAULT, exclude_interfaces=("eth1", "net+"))),
        (["--no-ipv6"], replace(DEFAULT, ipv6=False)),
        # What Istio's injector gives its init container.
        (
            ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*",
             "-d", "15090,15021,15020"],
            replace(DEFAULT, inbound_port=15006, exclude_inbound_ports=(15090, 15021, 15020)),
        ),
    ],
)  # fmt: skip
def test_options(argv: list[str], options: RedirectOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", *argv]) == 0
    assert capsys.readouterr().out == install_script(rule_set(options, family) for family in families(options))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-p", "http"], "argument -p/--proxy-port: 'http' is not a number"),
        (["-p", "-1"], "argument -p/--proxy-port: '-1' is not a number"),
        (["-p", "70000"], "argument --proxy-port: 70000 is not a port: 1 to 65535"),
        (["-u", "0"], "argument --proxy-uid: 0 cannot tell the sidecar from the app: everything that runs as root"),
        (["-d", "80-90"], "argument -d/--exclude-inbound-ports: '80-90' is not a number"),
        (["-x", "10.0.0.1/8"], "10.0.0.1/8 has host bits set: write a range as 10.96.0.0/16"),
        (["-i", "everything"], "argument -i/--include-outbound-ranges: 'everything' does not appear to be an IPv4"),
        (["-c", "lo"], "argument --exclude-interfaces: 'lo' takes in the loopback interface"),
        (["-m", "TPROXY"], "invalid choice: 'TPROXY'"),
        (["-k", "eth1"], "-k is not supported: traffic that arrives on another interface"),
        (["--inbound", "1"], "unrecognized arguments: --inbound 1"),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_option(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--dry-run", *argv])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as asked:
        main(["--help"])
    assert asked.value.code == 0
    text = capsys.readouterr().out
    for option in ("-p PORT", "-z PORT", "-u UID", "-g GID", "-b LIST", "-d LIST", "-i LIST", "-x LIST", "-q LIST"):
        assert f"  {option}, --" in text
    assert "--clean" in text


def test_a_dry_run_covers_both_families() -> None:
    script = install_script(rule_set(DEFAULT, family) for family in Family)
    assert script.startswith("set -e\niptables-restore --noflush")
    assert "ip -6 address replace ::6/128 dev lo\nip6tables-restore --noflush" in script


def test_it_starts_without_the_sidecars_libraries() -> None:
    program = "import sys, pymesh_proxy.redirect.__main__; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "argparse" in loaded
    assert not loaded & {
        "asyncio",
        "ssl",
        "uvloop",
        "google",
        "envoy",
        "yaml",
        "h2",
        "cryptography",
        "prometheus_client",
    }
