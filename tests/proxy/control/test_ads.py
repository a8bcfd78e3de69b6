"""The ADS state machine, by scripted responses and by random ones."""

from typing import cast

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.errors import ConfigError
from pymesh.steps import whole
from pymesh.xds.types import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET
from pymesh_proxy.control.ads import INITIAL_FETCH_TIMEOUT, MAX_ERROR_LENGTH
from pymesh_proxy.control.resources import Interest
from tests.proxy.control.scripted import (
    Scripted,
    cluster,
    delta,
    endpoints,
    listener,
    routes,
    secret,
    tls_listener,
)


@pytest.fixture
def script() -> Scripted:
    return Scripted()


def test_the_first_configuration_goes_into_force_as_a_whole(script: Scripted) -> None:
    first = script.open()
    assert [request.type_url for request in first] == [CLUSTER, LISTENER]
    assert [request.node.id for request in first] == ["me", ""]
    assert script.ads.missing() == "clusters, listeners"

    ack, follow = script.receive(
        delta(CLUSTER, "1", cluster("a"), cluster("b", service="svc"), cluster("c", eds=False))
    )
    assert (ack.response_nonce, ack.error_detail.message) == ("1", "")
    assert follow.type_url == ENDPOINT
    assert follow.resource_names_subscribe == ["a", "svc"]
    assert script.ads.missing() == "listeners, endpoints of a and 1 more"

    script.receive(delta(ENDPOINT, "2", endpoints("a"), endpoints("svc")))
    assert script.ads.missing() == "listeners"
    _, follow = script.receive(delta(LISTENER, "3", listener("l", "80", "81", "80")))
    assert (follow.type_url, follow.resource_names_subscribe) == (ROUTE, ["80", "81"])
    script.receive(delta(ROUTE, "4", routes("80")))
    assert script.ads.missing() == "routes of 81"
    assert script.consumer.published == 0
    assert not script.ads.ready

    script.receive(delta(ROUTE, "5", routes("81")))
    assert script.ads.ready
    assert script.ads.missing() == ""
    assert script.consumer.published == 1
    assert script.consumer.names(CLUSTER) == {"a", "b", "c"}
    assert script.consumer.names(ENDPOINT) == {"a", "svc"}
    assert script.consumer.names(ROUTE) == {"80", "81"}
    assert script.stats.updates == 5


def test_an_empty_mesh_is_ready_too(script: Scripted) -> None:
    script.open()
    script.receive(delta(CLUSTER, "1"))
    script.receive(delta(LISTENER, "2"))
    assert script.ads.ready


def test_a_new_cluster_waits_for_its_endpoints_and_then_for_no_longer_than_envoy(script: Scripted) -> None:
    script.complete()
    script.receive(delta(CLUSTER, "5", cluster("b")))
    assert script.consumer.names(CLUSTER) == {"a"}
    script.receive(delta(ENDPOINT, "6", endpoints("b")))
    assert script.consumer.names(CLUSTER) == {"a", "b"}

    script.receive(delta(CLUSTER, "7", cluster("silent")))
    deadline = script.ads.next_deadline()
    assert deadline == script.now + INITIAL_FETCH_TIMEOUT
    whole(script.ads.tick(deadline - 0.1))
    assert script.consumer.names(CLUSTER) == {"a", "b"}
    whole(script.ads.tick(deadline))
    assert script.consumer.names(CLUSTER) == {"a", "b", "silent"}
    assert script.stats.given_up == 1
    assert script.ads.next_deadline() is None
    script.receive(delta(CLUSTER, "8", cluster("a", note="changed")))  # nobody waits for `silent` again
    assert cast("Message", script.consumer.in_force[CLUSTER]["a"]) == cluster("a", note="changed")


def test_a_changed_cluster_keeps_its_endpoints_and_goes_into_force_at_once(script: Scripted) -> None:
    script.complete()
    requests = script.receive(delta(CLUSTER, "5", cluster("a", note="changed"), version="2"))
    assert len(requests) == 1
    assert script.consumer.in_force[CLUSTER]["a"] == cluster("a", note="changed")
    assert script.consumer.names(ENDPOINT) == {"a"}


def test_a_cluster_that_takes_other_endpoints_keeps_the_old_until_the_new_are_there(script: Scripted) -> None:
    script.complete()
    _, follow = script.receive(delta(CLUSTER, "5", cluster("a", service="other"), version="2"))
    assert follow.resource_names_subscribe == ["other"]
    assert follow.resource_names_unsubscribe == ["a"]
    assert script.consumer.in_force[CLUSTER]["a"] == cluster("a")
    assert script.consumer.names(ENDPOINT) == {"a"}
    script.receive(delta(ENDPOINT, "6", endpoints("other")))
    assert script.consumer.in_force[CLUSTER]["a"] == cluster("a", service="other")
    assert script.consumer.names(ENDPOINT) == {"other"}


def test_removal_takes_what_was_referred_to_along(script: Scripted) -> None:
    script.complete()
    _, follow = script.receive(delta(CLUSTER, "5", removed=["a", "never heard of"]))
    assert follow.resource_names_unsubscribe == ["a"]
    _, follow = script.receive(delta(LISTENER, "6", removed=["l"]))
    assert follow.resource_names_unsubscribe == ["80"]
    assert not any(script.consumer.in_force.values())


def test_endpoints_that_the_server_withdraws_stay_while_a_cluster_refers_to_them(script: Scripted) -> None:
    script.complete()
    script.receive(delta(ENDPOINT, "5", removed=["a"]))
    assert script.consumer.names(ENDPOINT) == {"a"}
    assert script.ads.ready


def test_one_bad_resource_is_refused_with_its_path_and_the_others_go_into_force(script: Scripted) -> None:
    script.complete()
    script.consumer.refuse = {"bad", "worse"}
    good = [cluster(f"good-{number}", eds=False) for number in range(9)]
    changed = cluster("a", note="changed")
    (nack,) = script.receive(delta(CLUSTER, "5", *good[:5], cluster("bad"), *good[5:], cluster("worse"), changed))
    assert nack.response_nonce == "5"
    assert nack.error_detail.code == 3
    assert nack.error_detail.message == ("bad: some.field: is not supported; worse: some.field: is not supported")
    assert script.consumer.names(CLUSTER) == {"a", *(f"good-{number}" for number in range(9))}
    assert script.consumer.in_force[CLUSTER]["a"] == changed
    assert script.stats.rejected == 1
    assert "bad: some.field" in script.stats.last_rejection


def test_a_refused_update_leaves_the_last_good_one_in_force(script: Scripted) -> None:
    script.complete()
    script.consumer.refuse = {"a"}
    (nack,) = script.receive(delta(CLUSTER, "5", cluster("a", note="bad"), version="2"))
    assert nack.error_detail.message
    assert script.consumer.in_force[CLUSTER]["a"] == cluster("a")
    assert script.open()[0].initial_resource_versions == {"a": "1"}  # of what is really held


def test_refused_endpoints_hold_nothing_up(script: Scripted) -> None:
    script.open()
    script.receive(delta(CLUSTER, "1", cluster("a")))
    script.receive(delta(LISTENER, "2"))
    script.consumer.refuse = {"a"}
    script.receive(delta(ENDPOINT, "3", endpoints("a")))
    assert script.ads.ready


def test_resources_that_cannot_be_read(script: Scripted) -> None:
    script.complete()
    response = delta(CLUSTER, "5", cluster("x", eds=False), cluster("x", eds=False), cluster(""))
    wrong = response.resources.add(name="wrong", version="1")
    wrong.resource.Pack(endpoints("wrong"))
    broken = response.resources.add(name="broken", version="1")
    broken.resource.type_url, broken.resource.value = CLUSTER, b"\xff"
    response.resources.add(name="empty")
    alias = response.resources.add(name="alias")
    alias.resource.Pack(cluster("real"))
    (nack,) = script.receive(response)
    text = nack.error_detail.message
    for part in (
        "resources[1]: 'x' is there twice",
        "resources[2]: the resource has no name",
        "wrong: resources[3]: is a type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, where a",
        "broken: resources[4]: is not a well-formed",
        "empty: resources[5]: is a nothing",
        "resources[6]: sent as 'alias', but calls itself 'real'",
    ):
        assert part in text
    assert script.consumer.names(CLUSTER) == {"a", "x"}


def test_a_refusal_is_of_bounded_length(script: Scripted) -> None:
    script.complete()
    names = {f"{number}-{'x' * 1000}" for number in range(50)}
    script.consumer.refuse = names
    (nack,) = script.receive(delta(CLUSTER, "5", *map(cluster, names)))
    assert len(nack.error_detail.message) <= MAX_ERROR_LENGTH


@pytest.mark.parametrize(
    "response", [delta("type.googleapis.com/x", "1"), delta(ROUTE, "1", routes("x")), delta("", "")]
)
def test_what_was_not_asked_for_ends_the_stream(script: Scripted, response: DeltaDiscoveryResponse) -> None:
    script.open()
    with pytest.raises(ConfigError, match="not asked for"):
        script.receive(response)


def test_garbage_ends_the_stream(script: Scripted) -> None:
    script.open()
    with pytest.raises(ConfigError, match="DeltaDiscoveryResponse"):
        whole(script.ads.receive(b"\xff\xff", 0.0))


def test_a_new_stream_resumes_with_what_is_held(script: Scripted) -> None:
    script.complete()
    resumed = script.open()
    assert [(request.type_url, list(request.resource_names_subscribe)) for request in resumed] == [
        (CLUSTER, []),
        (ENDPOINT, ["a"]),
        (LISTENER, []),
        (ROUTE, ["80"]),
    ]
    assert [dict(request.initial_resource_versions) for request in resumed] == [
        {"a": "1"},
        {"a": "1"},
        {"l": "1"},
        {"80": "1"},
    ]
    assert not any(request.response_nonce for request in resumed)
    script.receive(delta(CLUSTER, "n1", removed=["a"]))
    assert script.consumer.names(CLUSTER) == set()


def test_the_time_for_names_awaited_begins_anew_with_the_stream(script: Scripted) -> None:
    script.open()
    script.receive(delta(CLUSTER, "1", cluster("a")))
    script.receive(delta(LISTENER, "2"))
    script.now += 100
    script.open()
    assert script.ads.next_deadline() == script.now + INITIAL_FETCH_TIMEOUT
    assert not script.ads.ready


# --- static resources ---


def test_what_static_resources_refer_to_is_asked_for_at_once_and_for_good() -> None:
    script = Scripted(Interest(frozenset({CLUSTER}), {ENDPOINT: frozenset({"static"}), ROUTE: frozenset({"80"})}))
    assert [(request.type_url, list(request.resource_names_subscribe)) for request in script.open()] == [
        (CLUSTER, []),
        (ENDPOINT, ["static"]),
        (ROUTE, ["80"]),
    ]
    assert script.ads.missing() == "clusters, endpoints of static, routes of 80"
    _, follow = script.receive(delta(CLUSTER, "1", cluster("a")))
    assert list(follow.resource_names_subscribe) == ["a"]
    script.receive(delta(ENDPOINT, "2", endpoints("a"), endpoints("static")))
    assert not script.ads.ready
    script.receive(delta(ROUTE, "3", routes("80")))
    assert script.ads.ready
    _, follow = script.receive(delta(CLUSTER, "4", removed=["a"]))
    assert list(follow.resource_names_unsubscribe) == ["a"]
    assert script.consumer.names(ENDPOINT) == {"static"}


def test_a_static_listener_waits_for_its_routes_no_longer_than_envoy() -> None:
    script = Scripted(Interest(frozenset(), {ROUTE: frozenset({"80"})}))
    script.open()
    assert script.ads.next_deadline() == script.now + INITIAL_FETCH_TIMEOUT
    whole(script.ads.tick(script.now + INITIAL_FETCH_TIMEOUT))
    assert script.ads.ready


def test_who_needs_nothing_is_ready() -> None:
    script = Scripted(Interest(frozenset(), {}))
    assert script.open() == []
    assert script.ads.ready


WEB, LOST = "kubernetes://web", "kubernetes://lost"


def test_a_listener_waits_for_its_secrets_and_not_for_those_that_do_not_exist(script: Scripted) -> None:
    script.complete()
    _, routes_dropped, follow = script.receive(delta(LISTENER, "5", tls_listener("l", WEB, LOST, "default")))
    assert routes_dropped.resource_names_unsubscribe == ["80"]
    assert (follow.type_url, follow.resource_names_subscribe) == (SECRET, [LOST, WEB])
    assert script.ads.missing() == f"secrets of {LOST} and 1 more"
    assert script.consumer.in_force[LISTENER]["l"] == listener("l", "80")
    script.receive(delta(SECRET, "6", secret(WEB), removed=[LOST]))
    assert script.ads.missing() == ""
    assert script.consumer.in_force[LISTENER]["l"] == tls_listener("l", WEB, LOST, "default")
    script.receive(delta(SECRET, "7", secret(LOST)))  # it comes later, and is taken
    assert script.consumer.names(SECRET) == {WEB, LOST}


def test_a_secret_goes_with_the_listener_and_a_withdrawn_one_stays_while_it_is_named(script: Scripted) -> None:
    script.complete()
    script.receive(delta(LISTENER, "5", tls_listener("t", WEB)))
    script.receive(delta(SECRET, "6", secret(WEB)))
    script.receive(delta(SECRET, "7", removed=[WEB]))
    assert script.consumer.names(SECRET) == {WEB}
    *_, follow = script.receive(delta(LISTENER, "8", removed=["t"]))
    assert follow.resource_names_unsubscribe == [WEB]
    assert script.consumer.names(SECRET) == set()


def test_a_refused_secret_holds_nothing_up(script: Scripted) -> None:
    script.complete()
    script.consumer.refuse = {WEB}
    script.receive(delta(LISTENER, "5", tls_listener("t", WEB)))
    (nack,) = script.receive(delta(SECRET, "6", secret(WEB)))
    assert nack.error_detail.message
    assert script.consumer.names(LISTENER) == {"l", "t"}


# --- any order of anything ------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.one_of(
    st.tuples(st.just("cluster"), NAMES, st.sampled_from(["", "a", "b", "svc"])),
    st.tuples(st.just("endpoints"), st.sampled_from(["a", "b", "c", "svc"]), st.just("")),
    st.tuples(st.just("listener"), NAMES, st.sampled_from(["80", "81"])),
    st.tuples(st.just("routes"), st.sampled_from(["80", "81"]), st.just("")),
    st.tuples(st.sampled_from(["remove cluster", "remove listener"]), NAMES, st.just("")),
    st.tuples(st.just("refuse"), NAMES, st.just("")),
    st.tuples(st.sampled_from(["reconnect", "later", "accept all"]), st.just(""), st.just("")),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_whatever_comes_what_is_in_force_is_complete(steps: list[tuple[str, str, str]]) -> None:
    script = Scripted()
    script.open()
    opened, given_up = {CLUSTER, LISTENER}, False
    for number, (kind, name, detail) in enumerate(steps):
        response: DeltaDiscoveryResponse | None = None
        match kind:
            case "cluster":
                response = delta(CLUSTER, str(number), cluster(name, service=detail, note=str(number)))
            case "endpoints" if ENDPOINT in opened:
                response = delta(ENDPOINT, str(number), endpoints(name))
            case "listener":
                response = delta(LISTENER, str(number), listener(name, detail))
            case "routes" if ROUTE in opened:
                response = delta(ROUTE, str(number), routes(name))
            case "remove cluster":
                response = delta(CLUSTER, str(number), removed=[name])
            case "remove listener":
                response = delta(LISTENER, str(number), removed=[name])
            case "refuse":
                script.consumer.refuse.add(name)
            case "accept all":
                script.consumer.refuse.clear()
            case "reconnect":
                opened = {request.type_url for request in script.open()}
            case "later":
                script.now += INITIAL_FETCH_TIMEOUT
                whole(script.ads.tick(script.now))
                given_up = given_up or script.stats.given_up > 0
        if response is not None:
            ack, *follow = script.receive(response)
            assert ack.response_nonce == str(number)
            opened |= {request.type_url for request in follow}
        if script.consumer.published and not given_up and not script.stats.rejected:
            needed = {
                message.eds_cluster_config.service_name or message.name
                for message in script.consumer.in_force[CLUSTER].values()
            }
            assert needed == script.consumer.names(ENDPOINT)
        assert script.ads.ready or not script.consumer.published
