"""Under load from inside the cluster: versions change, apps, gateways and the control plane restart; nobody notices."""

import pytest

from tests.cluster.cluster import PODS, SYSTEM, apply, curl_json, kubectl, load, pymesh, rolled_out, sample

pytestmark = pytest.mark.usefixtures("workloads")

REVIEWS = "http://reviews.bookinfo:9080/reviews/0"
PAGE = f"http://ingressgateway.{SYSTEM}/api/v1/products/0"


def restart(namespace: str, deployment: str) -> None:
    """As kubectl does it, until the last new pod is ready and the last old one is told to go."""
    kubectl("-n", namespace, "rollout", "restart", f"deployment/{deployment}")
    rolled_out(namespace, f"deployment/{deployment}")


def test_a_shift_moves_every_request_and_loses_none() -> None:
    try:
        with load("pymesh-test", "client", REVIEWS):
            pymesh("shift", "reviews", "--to", "v3", "--step", "50%", "--every", "5s", "-n", "bookinfo", timeout=PODS)
        assert {curl_json("pymesh-test", "client", REVIEWS)["version"] for _ in range(10)} == {"v3"}
    finally:
        apply(sample("bookinfo") / "routing.yaml")


@pytest.mark.parametrize("app", ["details-v1", "productpage-v1"])
def test_an_app_restarts(app: str) -> None:
    with load("pymesh-outside", "outsider", PAGE):
        restart("bookinfo", app)


@pytest.mark.parametrize("part", ["ingressgateway", "pymesh-controlplane", "policy", "telemetry"])
def test_a_part_of_the_mesh_restarts(part: str) -> None:
    with load("pymesh-outside", "outsider", PAGE):
        restart(SYSTEM, part)
