"""Nobody takes what belongs to another namespace, whatever the alphabet says, and the loser is told."""

import pytest

from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import precedence
from tests.controlplane.pilot.worlds import service, world_of

SHOP = "shop.vic.svc.cluster.local"
YOUNG, OLD = "2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"


def mine(name: str, ip: str, ports: str = "[{name: http, port: 80}]", namespace: str = "vic") -> str:
    return "---" + service(name, ports, ip).replace("namespace: default", f"namespace: {namespace}")


def written(kind: str, where: str, spec: str, created: str = "") -> str:
    namespace, _, name = where.partition("/")
    age = f", creationTimestamp: '{created}'" if created else ""
    return f"""
---
apiVersion: networking.istio.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}{age}}}
spec: {spec}
"""


def virtual(where: str, created: str = "", host: str = SHOP) -> str:
    spec = f"{{hosts: [{host}], http: [{{route: [{{destination: {{host: {SHOP}}}}}]}}]}}"
    return written("VirtualService", where, spec, created)


def warnings(text: str) -> list[str]:
    current = world_of(text)
    return [f"{item.resource} {item.path}: {item.sentence}" for item in check(current.resources.values(), current)]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (virtual("vic/z", YOUNG), virtual("atk-a/a", OLD), "which is of the host's own namespace"),
        (virtual("vic/z"), virtual("pymesh-system/a"), "which is of the host's own namespace"),
        (virtual("pymesh-system/z", YOUNG), virtual("atk-a/a", OLD), "which is of the root namespace"),
        (virtual("other/z", OLD), virtual("atk-a/a", YOUNG), "which is older"),
        (virtual("other/z", OLD), virtual("atk-a/a"), "which is older"),
        (virtual("vic/z", OLD), virtual("vic/a", YOUNG), "which is older"),
        (virtual("atk-a/z"), virtual("other/a"), "which comes first by name"),
    ],
)
def test_who_routes_a_host(first: str, second: str, why: str) -> None:
    for text in (first + second, second + first):
        current = world_of(mine("shop", "10.96.0.50") + text)
        winner = world_of(first).virtual_services[0].key
        assert current.routing[SHOP].key == winner
        (told,) = warnings(mine("shop", "10.96.0.50") + text)
        assert f"{SHOP} is already routed by {winner}, {why}" in told
        assert not told.startswith(str(winner))


def test_a_host_belongs_to_its_namespace_even_before_its_service_is_there() -> None:
    assert world_of(virtual("vic/z") + virtual("atk-a/a")).routing[SHOP].key.namespace == "vic"


@pytest.mark.parametrize(
    ("host", "namespace"),
    [(SHOP, "vic"), ("*.vic.svc.cluster.local", "vic"), ("*.svc.cluster.local", ""), ("shop.example.com", "")],
)
def test_the_namespace_in_a_name(host: str, namespace: str) -> None:
    assert precedence.owner_by_name(host) == namespace


def test_a_host_of_service_entries_is_the_older_ones() -> None:
    spec = "{hosts: [api.example.com], ports: [{number: 80, name: http}]}"
    text = written("ServiceEntry", "vic/z", spec, OLD) + written("ServiceEntry", "atk-a/a", spec, YOUNG)
    assert world_of(text).services["api.example.com"].namespace == "vic"
