"""Which certificates a gateway's pod gets, and who gets none."""

import base64
from dataclasses import replace

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from pymesh.xds import types
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.sources.secrets import wanted as needed
from tests.controlplane.galley.certificates import AUTHORITY, OTHER, WEB, secret, tls_secret
from tests.controlplane.pilot.gateway_worlds import EDGE, gateway, router
from tests.controlplane.pilot.worlds import pod, resources_for, sidecar, world_of

SIMPLE = (
    "{port: {number: 443, name: web, protocol: HTTPS}, hosts: [www.example.com],"
    " tls: {mode: SIMPLE, credentialName: web}}"
)
MUTUAL = SIMPLE.replace("SIMPLE", "MUTUAL").replace("name: web", "name: shop").replace("www", "shop")
GATEWAY = router(service_account="default")


def given(*manifests: str, node: Node = GATEWAY) -> dict[str, Secret]:
    found = resources_for(node, world_of(EDGE + "".join(manifests))).get(types.SECRET, {})
    return {name: message for name, message in found.items() if isinstance(message, Secret)}


def test_a_server_gets_its_certificate() -> None:
    found = given(gateway(SIMPLE), tls_secret(WEB), tls_secret(OTHER, "unused"))
    assert list(found) == ["kubernetes://web"]
    pair = found["kubernetes://web"].tls_certificate
    assert (pair.certificate_chain.inline_bytes, pair.private_key.inline_bytes) == (WEB.chain, WEB.key)


@pytest.mark.parametrize(
    "held",
    [
        tls_secret(WEB, roots=AUTHORITY.root),
        tls_secret(WEB) + secret("web-cacert", {"cacert": AUTHORITY.root}),
        secret(values={"cert": WEB.chain, "key": WEB.key, "cacert": AUTHORITY.root}),
    ],
)
def test_mutual_gets_the_roots_of_its_clients_too(held: str) -> None:
    found = given(gateway(MUTUAL), held)
    assert list(found) == ["kubernetes://web", "kubernetes://web-cacert"]
    assert found["kubernetes://web-cacert"].validation_context.trusted_ca.inline_bytes == AUTHORITY.root


def test_the_secret_of_another_namespace_is_not_the_gateways() -> None:
    assert given(gateway(SIMPLE), tls_secret(WEB).replace("pymesh-system", "default")) == {}


@pytest.mark.parametrize("name", ["pymesh-ca", "cacerts"])
def test_the_secret_of_the_meshs_ca_goes_to_no_gateway(name: str) -> None:
    """Whatever keys it has, and though a Gateway names it; it is not even read."""
    asking = gateway(MUTUAL.replace("credentialName: web", f"credentialName: {name}"))
    held = tls_secret(WEB, name, roots=AUTHORITY.root)
    assert given(asking, held) == {}
    world = world_of(EDGE + asking + held)
    assert {found for _, found in needed(world)} == {f"{name}-cacert"}


def test_string_data_wins() -> None:
    held = tls_secret(WEB).replace("\ndata: {", "\nstringData: {tls.crt: later}\ndata: {")
    assert given(gateway(SIMPLE), held)["kubernetes://web"].tls_certificate.certificate_chain.inline_bytes == b"later"


@pytest.mark.parametrize(
    "node",
    [
        replace(GATEWAY, service_account="other"),
        replace(GATEWAY, namespace="default"),
        replace(GATEWAY, addresses=("10.244.9.9",)),
        sidecar("10.244.0.90", "edge-0", namespace="pymesh-system", service_account="default"),
    ],
    ids=["another account", "another namespace", "an unknown pod", "a sidecar"],
)
def test_nobody_else_gets_any(node: Node) -> None:
    assert given(gateway(SIMPLE), tls_secret(WEB)) != {}
    assert given(gateway(SIMPLE), tls_secret(WEB), node=node) == {}


def test_a_workload_with_a_sidecar_gets_none_though_it_calls_itself_a_gateway() -> None:
    """A Gateway without selector is for all gateways of the namespace, and for nothing else that runs there."""
    behind = pod("reviews-v1", "10.244.0.91", "reviews").replace("default", "pymesh-system")
    node = router(id="router~10.244.0.91~reviews-v1.pymesh-system~x", addresses=("10.244.0.91",), pod="reviews-v1")
    node = replace(node, service_account="reviews")
    manifests = (gateway(SIMPLE).replace("{istio: ingressgateway}", "{}"), tls_secret(WEB), f"---{behind}")
    assert list(given(*manifests)) == ["kubernetes://web"]
    assert given(*manifests, node=node) == {}


def test_the_key_is_in_no_other_resource_and_in_no_representation() -> None:
    world = world_of(EDGE + gateway(SIMPLE) + tls_secret(WEB))
    key = base64.b64encode(WEB.key)[:40].decode()
    assert key not in repr(world)
    for kind, messages in resources_for(GATEWAY, world).items():
        assert kind == types.SECRET or WEB.key[40:80].decode() not in str(messages)
