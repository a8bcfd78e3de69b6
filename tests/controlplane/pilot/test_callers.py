"""Who calls, as far as routes ask for it: only where some route does is it told apart."""

import pytest

from pymesh_controlplane.pilot import callers
from pymesh_controlplane.pilot.callers import Caller
from tests.controlplane.pilot.worlds import service, sidecar, world_of

HTTP = "http: [{match: [{ASKED}], route: [{destination: {host: web}}]}]"
TCP = "tcp: [{match: [{ASKED}], route: [{destination: {host: web}}]}]"
TLS = "tls: [{match: [{sniHosts: [web], ASKED}], route: [{destination: {host: web}}]}]"


@pytest.mark.parametrize(
    ("routes", "asked", "requests", "connections"),
    [
        (HTTP, "sourceLabels: {app: a}", True, False),
        (HTTP, "sourceNamespace: a", True, False),
        (TCP, "sourceLabels: {app: a}", False, True),
        (TLS, "sourceNamespace: a", False, True),
        (HTTP, "port: 80", False, False),
        (TCP, "port: 80", False, False),
    ],
)
def test_requests_and_connections_are_told_apart_by_caller_each_where_they_ask(
    routes: str, asked: str, requests: bool, connections: bool
) -> None:
    world = world_of(f"""{service("web")}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: default}}
spec: {{hosts: [web], {routes.replace("ASKED", asked)}}}
""")
    [written] = world.virtual_services
    assert callers.matter_to_requests(written) is requests
    assert callers.matter_to_connections(world) is connections
    assert callers.asked_labels(world) == ({"app"} if "Labels" in asked else set())


def test_a_caller_has_of_its_labels_those_that_are_asked_for() -> None:
    node = sidecar(labels={"version": "v1", "app": "web", "team": "books"})
    assert callers.caller_of(node, {"version", "app", "zone"}) == Caller("default", (("app", "web"), ("version", "v1")))
