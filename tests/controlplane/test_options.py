"""The command line of the control plane."""

from pathlib import Path

import pytest

from pymesh_controlplane import options

BOTH = ["--config-dir", "config", "--ca-dir", "ca", "--jwks", "jwks.json"]


def test_the_defaults_are_those_of_the_architecture() -> None:
    """All components, Istio's ports."""
    given = options.parse(BOTH)
    assert given.components == {"pilot", "citadel", "policy", "telemetry"}
    assert (given.xds_port, given.tls_port, given.http_port, given.mesh_port) == (15010, 15012, 15014, 9091)
    assert (given.citadel, given.account) == ("pilot.pymesh-system.svc:15012", "pymesh-system/pymesh-controlplane")
    assert (given.config_dir, given.root_cert_out, given.trust_domain) == (Path("config"), None, "cluster.local")


def test_one_component_needs_only_its_own_options() -> None:
    """As with pymesh up --without citadel."""
    assert options.parse(["--components", "pilot", "--config-dir", "c"]).components == {"pilot"}
    assert options.parse(["--components", " citadel ,", *BOTH]).components == {"citadel"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "citadel needs --ca-dir"),
        (["--ca-dir", "ca", "--jwks", "j"], "pilot needs --config-dir"),
        (["--ca-dir", "ca"], "citadel needs --jwks"),
        ([*BOTH, "--components", "pilot,mixer"], "mixer: no such component; there are pilot, citadel, policy"),
        (["--components", "policy"], "policy needs --config-dir"),
        ([*BOTH, "--account", "policy"], "'policy' is not of the form NAMESPACE/NAME"),
        ([*BOTH, "--components", ","], "an empty list: no such component"),
        ([*BOTH, "--xds-port", "70000"], "'70000' is not a port"),
        ([*BOTH, "--xds-port", "http"], "'http' is not a port"),
        ([*BOTH, "--log-level", "loud"], "invalid choice: 'loud'"),
        (["--components", "pilot", "--config-dir", "c", "--root-cert-out", "r"], "--components leaves citadel out"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And status 2."""
    with pytest.raises(SystemExit) as caught:
        options.parse(arguments)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_help_tells_of_every_port(capsys: pytest.CaptureFixture[str]) -> None:
    """And of the exit status."""
    with pytest.raises(SystemExit) as caught:
        options.parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for part in ("15010", "15012", "15014", "9091", "exit status"):
        assert part in text
