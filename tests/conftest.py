"""What every test of the suite shares."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine: that belongs in `benchmarks/`.
settings.register_profile("timeless", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("timeless")

# Its tests need a real cluster, and say what no other can: `make test-cluster`.
CLUSTER = Path(__file__).parent / "cluster"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fail-on-skip`: in CI a test that did not run is a test that failed. `--cluster`: see CLUSTER."""
    parser.addoption("--fail-on-skip", action="store_true", help="fail the run if any test was skipped")
    parser.addoption("--cluster", action="store_true", help="install and test the mesh in the cluster of $KUBECONFIG")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the cluster's tests out, unless they are asked for."""
    return True if collection_path == CLUSTER and not config.getoption("--cluster") else None


def pytest_configure() -> None:
    """What runs in the background of a shell ignores SIGINT, and so would the commands that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which tests were skipped, loudly, where a skip is a failure."""
    skipped = terminalreporter.stats.get("skipped", [])
    if config.getoption("--fail-on-skip") and skipped:
        terminalreporter.write_line(f"{len(skipped)} skipped: with --fail-on-skip that fails the run", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn skips into a failing exit status when asked to."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--fail-on-skip") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
