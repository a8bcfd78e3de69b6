"""No message is larger than a proxy takes: what is left out, and what is sent in parts."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.grpc.framing import MAX_MESSAGE_BYTES
from pymesh.xds.types import CLUSTER, LISTENER, ROUTE
from pymesh_controlplane.pilot import wire
from pymesh_controlplane.pilot.bounds import MAX_CONTENT, first_part, size, too_large
from pymesh_controlplane.pilot.session import DeltaRequest, Session, Snapshot
from pymesh_controlplane.pilot.subscription import Changes, Resource, Response, digest_of
from tests.controlplane.pilot.proxies import MESH, Proxy, both, connected, names, snapshot_with

MOST = 2_000


def small(delta: bool) -> Proxy:
    """A proxy that has everything, and takes messages of MOST bytes."""
    proxy = connected(delta)
    proxy.session.most = MOST
    return proxy


def update(proxy: Proxy, **changes: Mapping[str, str]) -> list[Response]:
    proxy.session.update(snapshot_with(**changes), 1.0)
    came = proxy.settle()
    assert all(sum(map(size, response.resources)) <= MOST for response in came)
    return came


@both
def test_of_what_is_too_large_the_version_before_stays_in_force_and_all_else_goes_its_way(delta: bool) -> None:
    proxy = small(delta)
    came = update(proxy, routes={"9080": "x" * MOST}, endpoints={"a": "a-2", "b": "b-1"})
    assert [names(response) for response in came] == [["a"]]
    assert proxy.held[ROUTE] == {"9080": "a b"}
    assert proxy.session.left_out[ROUTE] == {"9080"}
    assert proxy.session.synced(ROUTE)
    update(proxy, routes={"9080": "mended"})
    assert proxy.held[ROUTE] == {"9080": "mended"}
    assert not proxy.session.left_out[ROUTE]


@both
def test_a_new_proxy_gets_the_rest(delta: bool) -> None:
    proxy = Proxy(Session(delta, most=MOST))
    proxy.session.update(snapshot_with(clusters={"a": "a1", "b": "b" * MOST}), 0.0)
    proxy.start()
    proxy.settle()
    assert proxy.held[CLUSTER] == {"a": "a1"}
    assert proxy.held[LISTENER] == {"9080": "l1"}


@both
def test_a_listener_that_is_too_large_keeps_its_version_before(delta: bool) -> None:
    proxy = small(delta)
    update(proxy, listeners={"9080": "l" * MOST, "80": "new"})
    assert proxy.held[LISTENER] == {"9080": "l1", "80": "new"}


def test_after_a_reconnect_nothing_is_sent_of_which_only_the_version_is_known() -> None:
    proxy = Proxy(Session(delta=True, most=MOST))
    proxy.session.update(snapshot_with(routes={"9080": "x" * MOST}), 0.0)
    proxy.session.request(DeltaRequest(ROUTE, subscribe=("9080",), known={"9080": "old"}), 0.0)
    proxy.session.request(DeltaRequest(ROUTE, subscribe=("9080",)), 0.0)  # asked for again
    for response in proxy.session.responses(0.0):
        assert response.resources == ()
        assert response.removed == ()


@both
def test_many_that_do_not_fit_together_come_in_parts(delta: bool) -> None:
    """Where everything of a type must be in one message, the largest are left out."""
    proxy = small(delta)
    listeners = {str(number): "l" * (100 + number) for number in range(20)}
    came = [response for response in update(proxy, listeners=listeners) if response.type_url == LISTENER]
    assert len(came) == (4 if delta else 1)
    if delta:
        assert proxy.held[LISTENER] == listeners
    else:
        out = proxy.session.left_out[LISTENER]
        assert proxy.held[LISTENER] == {name: text for name, text in listeners.items() if name not in out}
        assert "19" in out
        assert "0" not in out


def resources(*sizes: int) -> dict[str, Resource]:
    bodies = {f"r{index}": b"x" * length for index, length in enumerate(sizes)}
    return {name: Resource(name, digest_of(body), body) for name, body in bodies.items()}


@pytest.mark.parametrize("delta", [False, True])
@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.sets(st.text("ab", min_size=1), max_size=20))
def test_what_is_counted_is_never_less_than_what_is_sent(delta: bool, lengths: list[int], gone: set[str]) -> None:
    found = resources(*lengths)
    response = Response(ROUTE, "n" * 20, "v" * 16, tuple(found.values()), tuple(gone) if delta else ())
    counted = sum(map(size, found.values())) + sum(192 + len(name) for name in gone)
    assert len(wire.encode_response(response, delta=delta)) <= counted + MAX_MESSAGE_BYTES - MAX_CONTENT


@given(st.lists(st.integers(0, 3_000), max_size=12), st.sets(st.text("abc", max_size=3), max_size=20))
def test_parts_are_small_enough_and_make_up_the_whole(lengths: list[int], gone: set[str]) -> None:
    found = resources(*lengths)
    out = too_large(found, MOST, whole=False)
    rest = Changes({name: item for name, item in found.items() if name not in out}, frozenset(gone))
    while rest:
        part = first_part(rest, MOST)
        assert part
        assert sum(map(size, part.changed.values())) <= MOST
        left = {name: item for name, item in rest.changed.items() if name not in part.changed}
        rest = Changes(left, rest.removed - part.removed)


@given(st.lists(st.integers(0, 3_000), max_size=12))
def test_what_goes_whole_fits(lengths: list[int]) -> None:
    found = resources(*lengths)
    out = too_large(found, MOST, whole=True)
    assert sum(size(item) for name, item in found.items() if name not in out) <= MOST
    assert out or sum(map(size, found.values())) <= MOST


def test_the_whole_mesh_of_the_tests_fits() -> None:
    everything: Snapshot = MESH
    assert not any(too_large(items, MAX_CONTENT, whole=True) for items in everything.values())
