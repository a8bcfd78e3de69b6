"""One proxy's stream: what it is sent, when, and in which order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.xds.types import CLUSTER, ENDPOINT, LISTENER, ROUTE
from pymesh_controlplane.pilot.session import (
    ACK_PATIENCE,
    MAX_NAMES,
    DeltaRequest,
    RequestError,
    Session,
    Snapshot,
    SotwRequest,
)
from pymesh_controlplane.pilot.subscription import Response
from tests.controlplane.pilot.proxies import FOUR, MESH, Proxy, both, connected, names, snapshot, snapshot_with


@both
def test_a_new_proxy_gets_everything_clusters_first(delta: bool) -> None:
    """Listeners wait until the proxy has its clusters and their endpoints."""
    proxy = Proxy(Session(delta))
    proxy.start()
    assert proxy.session.responses(0.0) == []  # nothing is known yet
    proxy.session.update(MESH, 0.0)
    came = [response.type_url for response in proxy.settle()]
    assert came == [CLUSTER, ENDPOINT, LISTENER, ROUTE]
    assert proxy.held[ROUTE] == {"9080": "a b"}
    assert proxy.session.converged(2.0) == 2.0
    assert proxy.session.converged(3.0) is None


@both
def test_only_what_changed_is_sent(delta: bool) -> None:
    """One endpoint assignment, and nothing else."""
    proxy = connected(delta)
    proxy.session.update(snapshot_with(endpoints={"a": "a-1", "b": "b-2"}), 5.0)
    (response,) = proxy.settle()
    assert (response.type_url, names(response)) == (ENDPOINT, ["b"])
    proxy.session.update(snapshot_with(endpoints={"a": "a-1", "b": "b-2"}), 6.0)
    assert proxy.settle() == []


@both
def test_a_cluster_that_changes_brings_its_endpoints_again(delta: bool) -> None:
    """Envoy builds it anew and warms it with them, though they are as they were."""
    proxy = connected(delta)
    proxy.session.update(snapshot_with(clusters={"a": "a2", "b": "b1"}), 5.0)
    first, second = proxy.session.responses(0.0)
    assert (first.type_url, second.type_url) == (CLUSTER, ENDPOINT)
    assert names(second) == ["a"]
    assert names(first) == (["a"] if delta else ["a", "b"])


@both
def test_at_most_one_update_is_under_way_and_later_ones_merge(delta: bool) -> None:
    """The proxy gets the newest state, never the ones between."""
    proxy = connected(delta)
    proxy.session.update(snapshot_with(endpoints={"a": "a-2", "b": "b-1"}), 5.0)
    (first,) = proxy.session.responses(0.0)
    for number in range(3, 9):
        proxy.session.update(snapshot_with(endpoints={"a": f"a-{number}", "b": "b-1"}), 6.0)
        assert proxy.session.responses(0.0) == []
    proxy.say(ENDPOINT, first.nonce)
    (second,) = proxy.session.responses(0.0)
    assert [resource.body for resource in second.resources] == [b"a-8"]


@both
def test_a_cluster_goes_only_after_the_routes_that_named_it(delta: bool) -> None:
    """Make before break: b goes, c comes, the route moves from b to c."""
    proxy = connected(delta)
    proxy.session.update(
        snapshot_with(clusters={"a": "a1", "c": "c1"}, endpoints={"a": "a-1", "c": "c-1"}, routes={"9080": "a c"}),
        5.0,
    )
    came = proxy.settle()
    assert [response.type_url for response in came[:3]] == [CLUSTER, ENDPOINT, ROUTE]
    assert "b" in names(came[0]) or delta
    assert all("b" not in response.removed for response in came[:3])
    assert set(proxy.held[CLUSTER]) == {"a", "c"}
    assert proxy.held[ROUTE] == {"9080": "a c"}


@both
def test_while_a_proxy_refuses_its_routes_their_clusters_stay(delta: bool) -> None:
    """It goes on with the old routes, which name b; once it takes new ones, b goes."""
    proxy = connected(delta)
    proxy.session.update(snapshot_with(clusters={"a": "a1"}, endpoints={"a": "a-1"}, routes={"9080": "bad"}), 5.0)
    (refused,) = proxy.session.responses(0.0)
    assert refused.type_url == ROUTE
    proxy.say(ROUTE, refused.nonce, "no such filter")
    assert proxy.settle() == []
    assert "b" in proxy.held[CLUSTER]
    proxy.session.update(snapshot_with(clusters={"a": "a1"}, endpoints={"a": "a-1"}, routes={"9080": "a"}), 6.0)
    proxy.settle()
    assert set(proxy.held[CLUSTER]) == {"a"}


@both
def test_a_refusal_is_remembered_and_not_provoked_again(delta: bool) -> None:
    """Until something of what was refused is different; then all of it is sent, also what was good."""
    proxy = connected(delta)
    proxy.session.update(snapshot_with(endpoints={"a": "bad", "b": "b-2"}), 5.0)
    (response,) = proxy.session.responses(0.0)
    proxy.now = 7.0
    proxy.say(ENDPOINT, response.nonce, "x" * 10_000)
    endpoints = proxy.session.subscriptions[ENDPOINT]
    assert (endpoints.rejected_at, len(endpoints.error), proxy.session.refusals) == (7.0, 4096, 1)
    assert not proxy.session.synced(ENDPOINT)
    assert proxy.session.responses(8.0) == []
    proxy.session.update(snapshot_with(endpoints={"a": "a-3", "b": "b-2"}), 9.0)
    (again,) = proxy.settle()
    assert names(again) == ["a", "b"]
    assert endpoints.error == ""
    assert proxy.session.converged(10.0) == 5.0


@both
def test_taking_back_what_was_refused_is_sent_too(delta: bool) -> None:
    """A proxy may have taken the good half of what it refused: what it has of those names is not known any more."""
    proxy = connected(delta)
    proxy.session.update(snapshot_with(endpoints={"a": "bad", "b": "b-2"}), 5.0)
    (response,) = proxy.session.responses(0.0)
    proxy.say(ENDPOINT, response.nonce, "refused")
    proxy.session.update(MESH, 6.0)
    (again,) = proxy.settle()
    assert names(again) == ["a", "b"]
    assert proxy.session.synced(ENDPOINT)


def test_an_answer_to_an_old_response_is_ignored() -> None:
    """State of the world: its list of names too, since the client says it again with the right nonce."""
    proxy = connected(delta=False)
    proxy.session.request(SotwRequest(ENDPOINT, "0", ("nothing",)), 0.0)
    assert proxy.session.expired == 1
    assert proxy.session.subscriptions[ENDPOINT].names == {"a", "b"}


def test_a_delta_subscription_counts_whatever_its_nonce() -> None:
    """Delta: names are said only once."""
    proxy = connected(delta=True)
    proxy.session.request(DeltaRequest(ENDPOINT, "0", subscribe=("c",)), 0.0)
    assert proxy.session.expired == 1
    (response,) = proxy.session.responses(0.0)
    assert response.removed == ("c",)  # there is none: only so does the proxy learn it


def test_a_name_that_is_asked_for_again_is_sent_again() -> None:
    """Delta: the proxy has dropped it meanwhile."""
    proxy = connected(delta=True)
    proxy.session.request(DeltaRequest(ENDPOINT, subscribe=("a",)), 0.0)
    (response,) = proxy.session.responses(0.0)
    assert names(response) == ["a"]


def test_after_a_reconnect_only_the_difference_is_sent() -> None:
    """Delta: the proxy says what it kept; pilot may be another process by now."""
    kept = {resource.name: resource.version for resource in MESH[CLUSTER].values()}
    session = Session(delta=True)
    session.update(MESH, 0.0)
    session.request(DeltaRequest(CLUSTER, known={**kept, "b": "old", "gone": "1"}), 0.0)
    (response,) = session.responses(0.0)
    assert (names(response), response.removed) == (["b"], ("gone",))


def test_an_empty_list_means_all_only_as_long_as_no_name_was_given() -> None:
    """State of the world, for listeners and clusters; never for endpoints."""
    session = Session(delta=False)
    session.update(MESH, 0.0)
    session.request(SotwRequest(CLUSTER, "", ("a",)), 0.0)
    (response,) = session.responses(0.0)
    assert names(response) == ["a"]
    session.request(SotwRequest(CLUSTER, response.nonce, ("*",)), 0.0)
    (response,) = session.responses(0.0)
    assert names(response) == ["a", "b"]
    session.request(SotwRequest(CLUSTER, response.nonce, ()), 0.0)
    assert session.responses(0.0) == []
    assert session.subscriptions[CLUSTER].accepted == {}
    session.request(SotwRequest(ENDPOINT, "", ()), 0.0)
    (response,) = session.responses(0.0)
    assert names(response) == []


def test_a_listener_that_does_not_exist_is_answered() -> None:
    """grpc's xds:/// client learns only so, and at once, that there is none."""
    session = Session(delta=False)
    session.update(MESH, 0.0)
    session.request(SotwRequest(LISTENER, "", ("nowhere",)), 0.0)
    (response,) = session.responses(0.0)
    assert names(response) == []
    session.request(SotwRequest(LISTENER, response.nonce, ("nowhere", "9080")), 0.0)
    (response,) = session.responses(0.0)
    assert names(response) == ["9080"]


def test_a_client_that_says_it_again_before_the_answer_gets_all_it_names() -> None:
    """Both requests without a nonce, as Envoy sends them while it starts."""
    session = Session(delta=False)
    session.update(MESH, 0.0)
    session.request(SotwRequest(ENDPOINT, "", ("a",)), 0.0)
    (first,) = session.responses(0.0)
    session.request(SotwRequest(ENDPOINT, "", ("a", "b")), 0.0)
    assert session.responses(0.0) == []
    session.request(SotwRequest(ENDPOINT, first.nonce, ("a", "b")), 0.0)
    (second,) = session.responses(0.0)
    assert "b" in names(second)


@both
def test_patience_with_a_proxy_that_does_not_take_its_clusters_ends(delta: bool) -> None:
    """Its listeners are then sent without waiting; the clusters are not sent a second time."""
    session = Session(delta)
    proxy = Proxy(session)
    session.update(MESH, 0.0)
    proxy.start()
    (clusters,) = session.responses(0.0)
    assert session.deadline(1.0) == ACK_PATIENCE
    assert session.responses(ACK_PATIENCE - 0.1) == []
    (listeners,) = session.responses(ACK_PATIENCE)
    assert (clusters.type_url, listeners.type_url) == (CLUSTER, LISTENER)
    assert session.deadline(ACK_PATIENCE) is None


@both
def test_an_update_that_does_not_concern_a_proxy_is_no_convergence(delta: bool) -> None:
    """Or the histogram would say that everything takes no time."""
    proxy = connected(delta)
    proxy.session.update(MESH, 5.0)
    assert proxy.settle() == []
    assert proxy.session.converged(6.0) is None


def test_too_many_names_end_the_stream() -> None:
    """At once, and over several requests."""
    many = tuple(str(number) for number in range(MAX_NAMES + 1))
    with pytest.raises(RequestError, match="more than 50000 names"):
        Session(delta=False).request(SotwRequest(ENDPOINT, "", many), 0.0)
    session = Session(delta=True)
    session.request(DeltaRequest(ENDPOINT, subscribe=many[:-1]), 0.0)
    with pytest.raises(RequestError, match="more than 50000 names"):
        session.request(DeltaRequest(ENDPOINT, subscribe=many[-1:]), 0.0)
    with pytest.raises(RequestError, match="more than 50000 names"):
        Session(delta=True).request(DeltaRequest(CLUSTER, known=dict.fromkeys(many, "1")), 0.0)


def test_versions_depend_on_the_content_alone() -> None:
    """Two processes, two proxies: the same state has the same name."""
    one, other = connected(delta=False), connected(delta=True)
    for type_url in FOUR:
        assert one.session.subscriptions[type_url].version == other.session.subscriptions[type_url].version


CLUSTERS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Snapshots whose routes name only clusters that are in them."""
    clusters = draw(CLUSTERS)
    used = st.lists(st.sampled_from(sorted(clusters)), unique=True) if clusters else st.just([])
    listeners = draw(st.sets(st.sampled_from(["80", "9080"])))
    return snapshot(
        clusters=clusters,
        endpoints={name: f"{name}-{draw(st.sampled_from('12'))}" for name in clusters},
        listeners={name: draw(st.sampled_from("xy")) for name in listeners},
        routes={name: " ".join(draw(used)) for name in listeners},
    )


STEPS = st.lists(
    st.one_of(snapshots(), st.sampled_from(["deliver", "deliver", "deliver", "refuse listeners"])), max_size=25
)


@settings(max_examples=300, deadline=None)
@given(delta=st.booleans(), steps=STEPS, last=snapshots())
def test_no_route_in_force_ever_names_a_cluster_that_is_not(
    delta: bool, steps: list[Snapshot | str], last: Snapshot
) -> None:
    """Whatever changes when, and whatever the proxy takes or refuses; and in the end it has exactly what it should."""
    proxy = Proxy(Session(delta))
    proxy.start()
    wire: list[Response] = []

    def deliver(refuse: bool) -> None:
        """The proxy reads one response, takes or refuses it, and asks for what it then needs."""
        if not wire:
            return
        response = wire.pop(0)
        if refuse and response.type_url in (LISTENER, ROUTE):
            proxy.say(response.type_url, response.nonce, "refused")
            return
        proxy.apply(response)
        proxy.say(response.type_url, response.nonce)
        proxy.follow()

    def check() -> None:
        wire.extend(proxy.session.responses(proxy.now))
        kinds = [response.type_url for response in wire]
        assert len(kinds) == len(set(kinds)), "two updates of one type under way"
        for routes in proxy.held[ROUTE].values():
            assert set(routes.split()) <= set(proxy.held[CLUSTER])

    for step in steps:
        if isinstance(step, str):
            deliver(refuse=step == "refuse listeners")
        else:
            proxy.session.update(step, proxy.now)
        check()
    # A proxy that refused the very same thing is not asked again; anything else in between makes it be.
    between = snapshot(clusters={"z": "z"}, endpoints={"z": "z"}, listeners={"z": "z"}, routes={"z": "z"})
    for final in (between, last):
        proxy.session.update(final, proxy.now)
        for _ in range(40):
            deliver(refuse=False)
            check()
    for type_url in FOUR:
        expected = {name: resource.body.decode() for name, resource in last[type_url].items()}
        assert proxy.held[type_url] == expected
        if type_url in proxy.session.subscriptions:
            assert proxy.session.synced(type_url)
