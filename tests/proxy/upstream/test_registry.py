"""Endpoints are found again by cluster and address."""

from pymesh.steps import whole
from pymesh_proxy.upstream.endpoint import Health
from pymesh_proxy.upstream.registry import EndpointRegistry, EndpointSpec


class Idle:
    """A pooled connection that only knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def spec(host: str, **more: object) -> EndpointSpec:
    return EndpointSpec(host, 80, **more)  # type: ignore[arg-type]  # keyword arguments of one test each


def test_the_same_address_of_two_clusters_is_two_endpoints() -> None:
    registry = EndpointRegistry()
    (one,) = registry.update("a", [spec("10.0.0.1")])
    (other,) = registry.update("b", [spec("10.0.0.1")])
    assert one is not other
    assert list(registry.endpoints()) == [("a", one), ("b", other)]


def test_an_address_given_twice_counts_once() -> None:
    assert len(EndpointRegistry().update("a", [spec("10.0.0.1"), spec("10.0.0.1", weight=5)])) == 1


def test_what_stays_keeps_its_state_and_takes_on_what_is_new() -> None:
    registry = EndpointRegistry()
    (before,) = registry.update("a", [spec("10.0.0.1")])
    before.active, connection = 2, Idle()
    before.idle.append(connection)
    metadata, labels = {"tlsMode": "istio"}, {"a": "b"}
    changed = spec(
        "10.0.0.1",
        weight=3,
        hostname="pod",
        metadata={"tlsMode": "istio"},
        labels={"a": "b"},
        health=Health.FAILED_EDS_HEALTH,
    )
    (after,) = registry.update("a", [changed])
    assert after is before
    assert (after.active, after.idle, connection.closed) == (2, [connection], False)
    assert (after.weight, after.hostname, after.metadata, after.labels, after.healthy) == (
        3, "pod", metadata, labels, False,
    )  # fmt: skip


def test_what_goes_is_retired_and_its_idle_connections_closed() -> None:
    registry = EndpointRegistry()
    (gone,) = registry.update("a", [spec("10.0.0.1")])
    connection = Idle()
    gone.idle.append(connection)
    (new,) = registry.update("a", [spec("10.0.0.2")])
    assert not gone.retired, "the configuration without it is not in force yet"
    whole(registry.retiring())
    assert (gone.retired, connection.closed, gone.idle) == (True, True, [])
    registry.forget("a")
    registry.forget("never there")
    whole(registry.retiring())
    assert new.retired
    (again,) = registry.update("a", [spec("10.0.0.2")])
    assert again is not new
