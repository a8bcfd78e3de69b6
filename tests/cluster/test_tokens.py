"""citadel believes tokens that are meant for it, and no others."""

import pytest

from tests.cluster.cluster import BIN, MANIFESTS, apply, get, is_ready, kubectl, run
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.usefixtures("workloads")


def test_a_token_for_somebody_else_gets_no_certificate() -> None:
    apply(MANIFESTS / "tokens.yaml")
    try:
        eventually_sync(
            lambda: is_ready(get("pod", "audience-right", "-n", "pymesh-outside")),
            what="the proxy whose token is meant for citadel", timeout=120, interval=1,
        )  # fmt: skip
        assert not is_ready(get("pod", "audience-wrong", "-n", "pymesh-outside"))
        told = run(str(BIN / "kubectl"), "-n", "pymesh-outside", "logs", "audience-wrong").stdout
        told += run(str(BIN / "kubectl"), "-n", "pymesh-outside", "logs", "audience-wrong").stderr
        assert "audience" in told or "token" in told, told
    finally:
        kubectl("delete", "-f", str(MANIFESTS / "tokens.yaml"), "--wait=false")
