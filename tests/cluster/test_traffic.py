"""Requests: in by the gateway, from app to app over mutual TLS, counted, explained; and whom STRICT keeps out."""

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import (
    COMMAND,
    MANIFESTS,
    SYSTEM,
    apply,
    curl,
    curl_json,
    execute,
    get,
    kubectl,
    pymesh,
    rolled_out,
)
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.usefixtures("workloads")

INGRESS = f"http://ingressgateway.{SYSTEM}"
CLIENT = "spiffe://cluster.local/ns/pymesh-test/sa/client"


@pytest.fixture
def strict() -> Iterator[None]:
    """STRICT here as in bookinfo, and every sidecar knows it: it lets nobody in without a certificate."""
    apply(MANIFESTS / "strict.yaml")
    try:
        for url in ("http://details.bookinfo:9080/health", "http://everywhere.pymesh-test/health"):
            eventually_sync(
                lambda url=url: curl("pymesh-outside", "outsider", url)[0] == 0,
                what=f"plaintext to {url} refused", timeout=COMMAND, interval=1,
            )  # fmt: skip
        yield
    finally:
        kubectl("delete", "-f", str(MANIFESTS / "strict.yaml"))


def test_a_visitor_gets_the_page_through_the_gateway() -> None:
    def page() -> str:
        status, body = curl("pymesh-outside", "outsider", f"{INGRESS}/productpage")
        assert status == 200, f"{status} {body}"
        return body

    body = eventually_sync(page, what="the page", timeout=COMMAND, interval=1)
    assert "William Shakespeare" in body
    assert "Reviews (v" in body


def test_a_caller_is_who_its_certificate_says() -> None:
    assert curl_json("pymesh-test", "client", "http://details.bookinfo:9080/whoami")["caller"] == CLIENT
    page = curl_json("pymesh-outside", "outsider", f"{INGRESS}/whoami/reviews")
    assert page["caller"] == "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage"


def test_who_is_not_allowed_to_is_kept_out() -> None:
    """By the sample's own policies: ratings are for reviews alone."""
    assert curl("pymesh-test", "client", "http://ratings.bookinfo:9080/ratings/0")[0] == 403
    assert curl("pymesh-outside", "outsider", f"{INGRESS}/productpage")[0] == 200


@pytest.mark.usefixtures("strict")
def test_strict_lets_the_mesh_in_and_nobody_else() -> None:
    status, why = curl("pymesh-outside", "outsider", "http://details.bookinfo:9080/whoami")
    assert status == 0, why
    assert curl_json("pymesh-test", "client", "http://details.bookinfo:9080/whoami")["caller"] == CLIENT
    assert curl("pymesh-outside", "outsider", f"{INGRESS}/productpage")[0] == 200
    kubectl("-n", "bookinfo", "rollout", "restart", "deployment/details-v1")
    rolled_out("bookinfo", "deployment/details-v1")


def test_a_short_name_is_looked_for_where_the_search_list_says() -> None:
    """`ndots:5` makes of each name several; none of them may end at the wrong place."""
    for name in ("everywhere", "everywhere.pymesh-test", "everywhere.pymesh-test.svc.cluster.local"):
        assert curl_json("pymesh-test", "client", f"http://{name}/whoami")["app"] == "everywhere"


def test_a_journey_tells_every_hop_of_one_request_and_the_graph_who_talks_to_whom() -> None:
    done = execute(
        "pymesh-outside", "outsider", "curl", "-sS", "-o", "/dev/null", "-D", "-", f"{INGRESS}/productpage",
        "-H", "end-user: jason",
    )  # fmt: skip
    headers = dict(line.lower().split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    wanted = {"productpage-v1", "details-v1", "reviews-v2", "ratings-v1"}

    def told(*command: str, also: str = "") -> bool:
        said = pymesh(*command)
        assert all(app in said for app in (*wanted, also)), said
        return True

    journey = ("journey", headers["x-request-id"])
    eventually_sync(lambda: told(*journey), what="the journey", timeout=COMMAND, interval=1)
    graph = ("graph", "-n", "bookinfo")
    eventually_sync(lambda: told(*graph, also="ingressgateway"), what="the graph", timeout=COMMAND, interval=1)


def test_a_resource_says_what_galley_says_of_it() -> None:
    def accepted() -> bool:
        found = get("virtualservice", "reviews", "-n", "bookinfo")
        conditions = {item["type"]: item for item in found.get("status", {}).get("conditions", ())}
        assert conditions["Accepted"]["observedGeneration"] == found["metadata"]["generation"]
        return bool(conditions["Accepted"]["status"] == "True")

    eventually_sync(accepted, what="Accepted", timeout=COMMAND, interval=1)
