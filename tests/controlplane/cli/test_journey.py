"""Records of one request → a tree → lines."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pymesh_controlplane.cli.journey import Record, document, flatten, join, render, what_is_missing
from pymesh_proxy.admin_pages import record_as_json
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts

PRODUCTPAGE, REVIEWS, RATINGS, VISITOR = "10.244.0.4", "10.244.0.5", "10.244.0.6", "10.244.0.9"
PODS = {PRODUCTPAGE: "productpage-0", REVIEWS: "reviews-v2-0", RATINGS: "ratings-0", VISITOR: "visitor-0"}
SA = "spiffe://cluster.local/ns/bookinfo/sa/"


def record(pod: str, direction: str, wall: float, **fields: Any) -> Record:
    """A record as the proxy itself writes it."""
    facts = Facts(
        direction,
        remote=fields.pop("downstream_remote", ""),
        local=fields.pop("downstream_local", "127.0.0.1:15001"),
        original=fields.pop("original_destination", "10.96.0.1:80" if direction == "outbound" else ""),
        peer=fields.pop("peer", ""),
        own=fields.pop("own", ""),
    )
    made = RequestRecord(facts, wall, 100.0)
    made.method, made.status, made.attempts, made.flag = "GET", 200, 1, Flag.NONE
    made.t_filtered, made.t_connected, made.t_first_byte, made.t_end = 100.0002, 100.0006, 100.0106, 100.0107
    for name, value in fields.items():
        setattr(made, name, value)
    return Record(pod, record_as_json(made))


def story() -> list[Record]:
    """A visitor asks productpage, which asks reviews v2, which asks ratings."""
    return [
        record(
            "productpage-0", "inbound", 1.0, path="/productpage", authority="productpage:9080",
            downstream_remote=f"{VISITOR}:5000", original_destination=f"{PRODUCTPAGE}:9080",
            endpoint=f"{PRODUCTPAGE}:9080",
        ),
        record(
            "productpage-0", "outbound", 1.1, path="/reviews/0", authority="reviews:9080",
            downstream_remote=f"{PRODUCTPAGE}:5001", original_destination="10.96.0.7:9080",
            route_source="VirtualService bookinfo/reviews http[0]",
            cluster="outbound|9080|v2|reviews.bookinfo.svc.cluster.local", endpoint=f"{REVIEWS}:9080",
            endpoint_labels={"version": "v2"}, upstream_local=f"{PRODUCTPAGE}:5002",
            upstream_peer=f"{SA}bookinfo-reviews",
        ),
        record(
            "reviews-v2-0", "inbound", 1.2, path="/reviews/0", authority="reviews:9080",
            downstream_remote=f"{PRODUCTPAGE}:5002", original_destination=f"{REVIEWS}:9080", endpoint=f"{REVIEWS}:9080",
            peer=f"{SA}bookinfo-productpage", own=f"{SA}bookinfo-reviews",
        ),
        record(
            "reviews-v2-0", "outbound", 1.3, path="/ratings/0", authority="ratings:9080", reused=True, attempts=2,
            downstream_remote=f"{REVIEWS}:5003", original_destination="10.96.0.8:9080",
            cluster="outbound|9080||ratings.bookinfo.svc.cluster.local", endpoint=f"{RATINGS}:9080",
            upstream_local=f"{REVIEWS}:5004",
        ),
        record(
            "ratings-0", "inbound", 1.4, path="/ratings/0", authority="ratings:9080",
            downstream_remote=f"{REVIEWS}:5004", original_destination=f"{RATINGS}:9080", endpoint=f"{RATINGS}:9080",
        ),
    ]  # fmt: skip


@given(st.permutations(range(5)))
def test_records_are_joined_by_connection_and_time_in_whatever_order_they_come(order: list[int]) -> None:
    records = story()
    [root] = join([records[index] for index in order])
    assert list(flatten([root])) == records
    depth, hop = 1, root
    while hop.then:
        [hop] = hop.then
        depth += 1
    assert depth == 5


def test_a_request_that_reached_nobody_has_no_endpoint_and_no_peer() -> None:
    cluster = "outbound|9080|v1|reviews.bookinfo.svc.cluster.local"
    nobody = record("productpage-0", "outbound", 1.0, status=503, cluster=cluster, path="/", authority="reviews:9080")
    lines = [line.plain.strip() for line in render(join([nobody]), PODS)]
    assert "endpoint  none, subset v1" in lines
    assert not any(line.startswith("peer") for line in lines)


def test_two_calls_of_one_app_stay_side_by_side() -> None:
    page, call, arrival, *_ = story()
    second = record("productpage-0", "outbound", 1.05, endpoint="10.244.0.7:9080", upstream_local=f"{PRODUCTPAGE}:6000")
    [root] = join([call, arrival, page, second])
    assert [hop.record for hop in root.then] == [second, call]
    assert root.then[0].then == []


def test_a_record_without_its_cause_is_a_beginning_of_its_own() -> None:
    page, _, arrival, call, _ = story()
    assert [[record.pod for record in flatten([root])] for root in join([arrival, page, call])] == [
        ["productpage-0"],
        ["reviews-v2-0", "reviews-v2-0"],
    ]


def test_the_same_connection_numbers_to_another_endpoint_are_another_connection() -> None:
    _, call, arrival, *_ = story()
    other = Record(arrival.pod, {**arrival.fields, "original_destination": f"{REVIEWS}:9999"})
    assert len(join([call, other])) == 2


def test_the_lines_say_what_the_records_say() -> None:
    lines = [line.plain for line in render(join(story()), PODS)]
    assert lines[0] == "productpage-0 ◀ visitor-0  GET /productpage  200  10.7 ms"
    assert "  redirect" in lines[1]
    assert f"{PRODUCTPAGE}:9080" in lines[1]
    text = "\n".join(lines)
    assert "caller    plaintext" in text
    assert f"caller    mTLS, {SA}bookinfo-productpage" in text
    assert "route     VirtualService bookinfo/reviews http[0]" in text
    assert f"reviews-v2-0 at {REVIEWS}:9080, version v2, subset v2, new connection" in text
    assert f"peer      mTLS, {SA}bookinfo-reviews" in text
    assert "pooled connection, attempt 2" in text
    assert "route     the service itself" in text
    assert "times     filters and route 0.20 · connection 0.40 · answer 10.0 · body 0.10 ms" in text
    # Each level is two characters further in.
    assert [len(line) - len(line.lstrip()) for line in lines if "◀" in line or "▶" in line] == [0, 2, 4, 6, 8]


def test_it_says_what_is_missing_until_every_request_that_was_sent_has_arrived() -> None:
    page, call, arrival, *rest = story()
    call = Record(call.pod, {**call.fields, "upstream_peer": f"{SA}bookinfo-reviews"})
    assert what_is_missing(join([page, call, arrival, *rest])) == ""
    assert "no proxy" in what_is_missing([])
    assert "no proxy" in what_is_missing(join([call]))
    assert "did not arrive" in what_is_missing(join([page, call]))
    assert "reviews-v2-0" in what_is_missing(join([page, arrival]))


def test_failures_are_shown_with_their_flag_and_only_the_phases_that_were_reached() -> None:
    failed = record(
        "productpage-0", "outbound", 1.0, status=503, flag=Flag.NO_HEALTHY_UPSTREAM, details="no_healthy_upstream",
        t_connected=0.0, t_first_byte=0.0, endpoint="",
    )  # fmt: skip
    text = "\n".join(line.plain for line in render(join([failed]), PODS))
    assert "503" in text
    assert "UH no_healthy_upstream" in text
    assert "connection" not in text.split("times", maxsplit=1)[1]
    assert "endpoint  none" in text


def test_who_was_refused_without_a_flag_is_told_why_and_an_apps_own_refusal_says_nothing() -> None:
    why = "rbac_access_denied_matched_policy[none]"
    refused = record("reviews-v2-0", "inbound", 1.0, status=403, details=why)
    assert f"refused   {why}" in "\n".join(line.plain for line in render(join([refused]), PODS))
    by_app = record("reviews-v2-0", "inbound", 1.0, status=403, details="via_upstream")
    assert "refused" not in "\n".join(line.plain for line in render(join([by_app]), PODS))


# --- gateways, policy, retries --------------------------------------------------------------------------------------

INGRESS, EGRESS, OUTSIDE = "10.244.0.2", "10.244.0.3", "192.0.2.80"


def through_gateways() -> list[Record]:
    """Somebody from outside asks for the shop; the app asks an external service, through the egress gateway."""
    return [
        record(
            "ingressgateway", "outbound", 1.0, path="/", authority="shop.example.com",
            original_destination="", downstream_remote="127.0.0.1:5000", downstream_local=f"{INGRESS}:8080",
            endpoint=f"{PRODUCTPAGE}:9080",
            upstream_local=f"{INGRESS}:5001", upstream_peer=f"{SA}bookinfo-productpage",
        ),
        record(
            "productpage-0", "inbound", 1.1, path="/", authority="shop.example.com",
            downstream_remote=f"{INGRESS}:5001", original_destination=f"{PRODUCTPAGE}:9080",
            endpoint=f"{PRODUCTPAGE}:9080", notes={"policy": "ConcurrencyLimit bookinfo/productpage: slot 37 of 100"},
        ),
        record(
            "productpage-0", "outbound", 1.2, path="/x", authority="api.example.com",
            original_destination="240.240.0.1:80", endpoint=f"{EGRESS}:8080", upstream_local=f"{PRODUCTPAGE}:5002",
        ),
        record(
            "egressgateway", "outbound", 1.3, path="/x", authority="api.example.com",
            original_destination="", downstream_remote=f"{PRODUCTPAGE}:5002", downstream_local=f"{EGRESS}:8080",
            peer=f"{SA}bookinfo-productpage", endpoint=f"{OUTSIDE}:80", upstream_local=f"{EGRESS}:5003",
        ),
    ]  # fmt: skip


def test_a_journey_begins_at_the_ingress_gateway_and_ends_at_the_egress_gateway() -> None:
    [root] = join(reversed(through_gateways()))
    assert [found.pod for found in flatten([root])] == [
        "ingressgateway",
        "productpage-0",
        "productpage-0",
        "egressgateway",
    ]
    assert what_is_missing([root]) == ""
    text = "\n".join(line.plain for line in render([root], {**PODS, INGRESS: "ingressgateway"}))
    assert "ingressgateway ◀▶ shop.example.com  GET /  200" in text
    assert f"client    127.0.0.1, to {INGRESS}:8080, plaintext" in text
    assert "productpage-0 ◀ ingressgateway  GET /" in text
    assert "policy    ConcurrencyLimit bookinfo/productpage: slot 37 of 100" in text
    assert f"client    productpage-0, to {EGRESS}:8080, mTLS, {SA}bookinfo-productpage" in text
    assert f"endpoint  {OUTSIDE} at {OUTSIDE}:80" in text


def test_a_gateway_says_how_its_client_came() -> None:
    tls = through_gateways()[0]
    tls = Record(tls.pod, {**tls.fields, "tls": True, "sni": "shop.example.com"})
    assert "client    127.0.0.1, to 10.244.0.2:8080, TLS as shop.example.com" in "\n".join(
        line.plain for line in render(join([tls]), {})
    )


def test_the_same_id_over_the_same_connection_again_is_another_hop() -> None:
    """An app asks twice, over one pooled connection."""
    page, call, arrival, *_ = story()
    again = [Record(item.pod, {**item.fields, "started": item.started + 0.2}) for item in (call, arrival)]
    [root] = join([page, call, arrival, *again])
    assert [hop.record for hop in root.then] == [call, again[0]]
    assert [hop.then[0].record for hop in root.then] == [arrival, again[1]]


def test_an_attempt_that_was_given_up_is_part_of_the_hop() -> None:
    page, call, arrival, *_ = story()
    call = Record(call.pod, {**call.fields, "attempts": 2, "times_ms": {**call.fields["times_ms"], "end": 500.0}})
    first = Record(
        "reviews-v1-0", {**arrival.fields, "started": 1.15, "downstream_remote": f"{PRODUCTPAGE}:5009", "status": 503}
    )
    [root] = join([page, call, first, arrival])
    assert [hop.record for hop in root.then[0].then] == [first, arrival]
    once = Record(call.pod, {**call.fields, "attempts": 1})
    assert len(join([page, once, first, arrival])) == 2


def test_pods_of_the_same_name_in_two_namespaces_are_two_pods() -> None:
    page, call, *_ = story()
    here, there = (
        Record(item.pod, {**item.fields, "namespace": namespace})
        for item, namespace in ((page, "bookinfo"), (call, "elsewhere"))
    )
    assert len(join([here, there])) == 2


def test_programs_get_the_tree_with_the_phases() -> None:
    [tree] = document(join(story()))
    assert tree["pod"] == "productpage-0"
    assert tree["phases_ms"] == {"filters and route": 0.2, "connection": 0.4, "answer": 10.0, "body": 0.1}
    assert tree["then"][0]["route_source"] == "VirtualService bookinfo/reviews http[0]"
    assert json.loads(json.dumps([tree])) == [tree]


def test_what_others_wrote_does_not_command_the_terminal() -> None:
    hostile = record("p", "outbound", 1.0, path="/\x1b[2J", authority="\x9b1m", notes={"policy": "\r\x1b]0;"})
    assert all(line.plain.isprintable() for line in render(join([hostile]), {}))
