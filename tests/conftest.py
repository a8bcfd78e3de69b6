"""What every test of the suite shares."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fail-on-skip`: in CI a test that did not run is a test that failed."""
    parser.addoption("--fail-on-skip", action="store_true", help="fail the run if any test was skipped")


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
