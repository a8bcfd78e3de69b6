"""The command line of the control plane."""

from pathlib import Path

import pytest

from pymesh_controlplane import options

BOTH = ["--config-dir", "config", "--ca-dir", "ca", "--jwks", "jwks.json"]


CLUSTER = ["--kubernetes", "--proxy-image", "pymesh-proxy:0.1.0"]


def test_the_defaults_are_those_of_the_architecture() -> None:
    """All components, Istio's ports."""
    given = options.parse(BOTH)
    assert given.components == {"pilot", "citadel", "policy", "telemetry"}
    assert (given.xds_port, given.tls_port, given.http_port, given.mesh_port) == (15010, 15012, 15014, 9091)
    assert (given.citadel, given.account) == ("pilot.pymesh-system.svc:15012", "pymesh-system/pymesh-controlplane")
    assert (given.config_dir, given.root_cert_out, given.trust_domain) == (Path("config"), None, "cluster.local")


def test_in_a_cluster_all_components_run_and_the_pod_says_who_it_is() -> None:
    """As the manifests run it."""
    environment = {"POD_NAMESPACE": "pymesh-system", "POD_NAME": "pymesh-controlplane-0", "PROXY_IMAGE": "proxy:1"}
    given = options.parse(["--kubernetes"], environment)
    assert given.components == set(options.COMPONENTS)
    assert (given.namespace, given.pod_name, given.proxy_image) == ("pymesh-system", "pymesh-controlplane-0", "proxy:1")
    assert (given.kubernetes, given.kubeconfig, given.webhook_port) == (True, None, 15017)
    assert options.parse(["--kubernetes", "--proxy-image", "mine:2"], environment).proxy_image == "mine:2"


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
        ([*BOTH, "--components", "pilot,mixer"], "mixer: no such component; there are pilot, citadel, galley"),
        (["--components", "policy"], "policy needs --config-dir"),
        ([*BOTH, "--account", "policy"], "'policy' is not of the form NAMESPACE/NAME"),
        ([*BOTH, "--components", ","], "an empty list: no such component"),
        ([*BOTH, "--xds-port", "70000"], "'70000' is not a port"),
        ([*BOTH, "--xds-port", "http"], "'http' is not a port"),
        ([*BOTH, "--log-level", "loud"], "invalid choice: 'loud'"),
        (["--components", "pilot", "--config-dir", "c", "--root-cert-out", "r"], "--components leaves citadel out"),
        (["--components", "galley", *BOTH], "galley is a webhook of a Kubernetes API server: it needs --kubernetes"),
        ([*BOTH, "--kubeconfig", "k"], "--kubeconfig says how to reach a cluster: it needs --kubernetes"),
        ([*BOTH, "--known-pods-only", "--components", "citadel"], "pilot knows the pods: --components leaves out one"),
        ([*CLUSTER, "--known-pods-only"], "--known-pods-only and --kubernetes exclude each other"),
        ([*CLUSTER, "--config-dir", "c"], "--config-dir and --kubernetes exclude each other: the Kubernetes API is"),
        ([*CLUSTER, "--state-dir", "s"], "--state-dir and --kubernetes exclude each other"),
        ([*CLUSTER, "--ca-dir", "c"], "the CA is in the Secret cacerts or pymesh-ca"),
        ([*CLUSTER, "--jwks", "j"], "the Kubernetes API checks tokens"),
        ([*CLUSTER, "--root-cert-out", "r"], "written to a ConfigMap in every namespace"),
        ([*CLUSTER, "--components", "pilot,galley"], "galley shows a certificate of citadel in the same process"),
        (["--kubernetes"], "injector needs --proxy-image, or PROXY_IMAGE in the environment"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And status 2."""
    with pytest.raises(SystemExit) as caught:
        options.parse(arguments, {})
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_help_tells_of_every_port(capsys: pytest.CaptureFixture[str]) -> None:
    """And of the exit status."""
    with pytest.raises(SystemExit) as caught:
        options.parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for part in ("15010", "15012", "15014", "15017", "9091", "exit status", "TokenReview", "Lease", "POD_NAMESPACE"):
        assert part in text
