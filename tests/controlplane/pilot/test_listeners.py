"""Which chain a connection gets, by the rules of Envoy: what is routed, what passes through, what STRICT refuses."""

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext

from pymesh.xds import types
from pymesh_controlplane.pilot.listeners import RESERVED_PORTS
from tests.controlplane.pilot.chains import chain_for, secured, target
from tests.controlplane.pilot.worlds import EVERYTHING, pod, resources_for, service, sidecar, world_of

HTTP = ("http/1.1",)
MESH_HTTP = ("istio-http/1.1", "istio")
MESH_TCP = ("istio-peer-exchange", "istio")
PASSTHROUGH = "tcp PassthroughCluster"


def listener(name: str, text: str = EVERYTHING, ip: str = "10.244.0.10", pod_name: str = "productpage-1") -> Listener:
    found = resources_for(sidecar(ip, pod_name), world_of(text))[types.LISTENER][name]
    assert isinstance(found, Listener)
    return found


def policy(
    mode: str, ports: str = "", selector: str = "{matchLabels: {app: reviews}}", namespace: str = "default"
) -> str:
    return f"""
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: policy, namespace: default}}
spec: {{selector: {{matchLabels: {{app: reviews}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{{ports}}}}}
"""


# --- Outbound ---


@pytest.mark.parametrize(
    ("port", "address", "seen", "expected"),
    [
        (9080, "10.96.0.11", HTTP, "http 9080"),
        (9080, "10.244.0.11", HTTP, "http 9080"),  # by pod address: the Host header decides
        (9080, "10.96.0.11", (), PASSTHROUGH),  # opaque bytes to a port that is declared HTTP
        (9080, "10.96.0.21", HTTP, "http 9080"),  # nobody said what is spoken there
        (9080, "10.96.0.21", (), "tcp outbound-tcp|9080||cache.default.svc.cluster.local"),
        (5432, "10.96.0.20", (), "tcp outbound|5432||db.default.svc.cluster.local"),
        (5432, "10.96.0.20", HTTP, "tcp outbound|5432||db.default.svc.cluster.local"),  # declared TCP stays TCP
        (5432, "198.51.100.1", (), PASSTHROUGH),
        (7000, "10.244.0.21", (), "tcp outbound|7000||peers.default.svc.cluster.local"),  # headless, by pod
        (7000, "10.244.0.99", (), PASSTHROUGH),
        (9000, "192.0.2.77", (), "tcp outbound|9000||fixed.internal"),
        (4444, "198.51.100.1", HTTP, PASSTHROUGH),
        (15001, "10.244.0.10", (), "tcp BlackHoleCluster"),
        (80, "198.51.100.1", HTTP, "http 80"),
        (9080, "10.96.0.11", ("h2c",), PASSTHROUGH),
    ],
)
def test_outbound_plaintext(port: int, address: str, seen: tuple[str, ...], expected: str) -> None:
    assert target(chain_for(listener("virtualOutbound"), port, address, alpn=seen)) == expected


@pytest.mark.parametrize(
    ("port", "name", "expected"),
    [
        (443, "api.example.com", "tcp outbound|443||api.example.com"),
        (443, "a.example.org", "tcp outbound|443||*.example.org"),
        (443, "other.example.net", PASSTHROUGH),
        (9080, "reviews", PASSTHROUGH),  # TLS of the application's own, to a port that is declared HTTP
    ],
)
def test_outbound_tls_is_told_by_its_server_name_and_never_opened(port: int, name: str, expected: str) -> None:
    chain = chain_for(listener("virtualOutbound"), port, tls=True, server_name=name, alpn=("h2", "http/1.1"))
    assert target(chain) == expected
    assert not secured(chain)


def test_two_services_with_one_address_do_not_make_two_equal_chains() -> None:
    text = "---".join(service(name, "[{name: tcp, port: 1}]", "10.96.0.1") for name in ("a", "b"))
    chains = [chain for chain in listener("virtualOutbound", text).filter_chains if "a.default" in chain.name]
    assert len(chains) == 1
    assert not [chain for chain in listener("virtualOutbound", text).filter_chains if "b.default" in chain.name]


# --- Inbound ---

# (what arrives, whether TLS, ALPN or protocol seen)
PLAIN_HTTP = (False, HTTP)
PLAIN_TCP = (False, ())
APP_TLS = (True, ("h2", "http/1.1"))
OTHERS_TLS = (True, ())
MUTUAL_HTTP = (True, MESH_HTTP)
MUTUAL_TCP = (True, MESH_TCP)


def inbound(mode: str, port: int, arriving: tuple[bool, tuple[str, ...]], ports: str = "") -> tuple[str, bool]:
    # reviews listens on 9080, declared HTTP by its service; its container also has 7777, of which nobody said anything
    text = service("reviews", ip="10.96.0.11") + "---" + pod("reviews-1", "10.244.0.11", "reviews", port=7777)
    found = listener("virtualInbound", text + (policy(mode, ports) if mode else ""), "10.244.0.11", "reviews-1")
    tls, alpn = arriving
    chain = chain_for(found, port, "10.244.0.11", tls=tls, alpn=alpn)
    return target(chain), secured(chain)


@pytest.mark.parametrize("mode", ["", "PERMISSIVE", "UNSET"])
@pytest.mark.parametrize(
    ("port", "arriving", "expected"),
    [
        (9080, PLAIN_HTTP, ("http inbound|9080||", False)),
        (9080, MUTUAL_HTTP, ("http inbound|9080||", True)),
        (9080, APP_TLS, ("tcp inbound|9080||", False)),
        (9080, OTHERS_TLS, ("tcp inbound|9080||", False)),
        (7777, PLAIN_HTTP, ("http inbound|7777||", False)),
        (7777, PLAIN_TCP, ("tcp inbound|7777||", False)),
        (7777, MUTUAL_HTTP, ("http inbound|7777||", True)),
        (7777, MUTUAL_TCP, ("tcp inbound|7777||", True)),
        (7777, APP_TLS, ("tcp inbound|7777||", False)),
        (1234, PLAIN_HTTP, ("http InboundPassthroughCluster", False)),
        (1234, PLAIN_TCP, ("tcp InboundPassthroughCluster", False)),
        (1234, MUTUAL_HTTP, ("http InboundPassthroughCluster", True)),
        (1234, MUTUAL_TCP, ("tcp InboundPassthroughCluster", True)),
        (1234, APP_TLS, ("tcp InboundPassthroughCluster", False)),
    ],
)
def test_permissive_takes_everything_and_opens_only_the_meshs_own_tls(
    mode: str, port: int, arriving: tuple[bool, tuple[str, ...]], expected: tuple[str, bool]
) -> None:
    assert inbound(mode, port, arriving) == expected


@pytest.mark.parametrize("port", [9080, 7777, 1234, 80, 443])
@pytest.mark.parametrize("arriving", [PLAIN_HTTP, PLAIN_TCP, APP_TLS, OTHERS_TLS, (False, ("h2c",))])
def test_strict_demands_a_certificate_whatever_comes_to_whichever_port(
    port: int, arriving: tuple[bool, tuple[str, ...]]
) -> None:
    _, opened = inbound("STRICT", port, arriving)
    assert opened


@pytest.mark.parametrize(
    ("port", "arriving", "expected"),
    [
        (9080, MUTUAL_HTTP, "http inbound|9080||"),
        (7777, MUTUAL_HTTP, "http inbound|7777||"),
        (7777, MUTUAL_TCP, "tcp inbound|7777||"),
        (1234, MUTUAL_HTTP, "http InboundPassthroughCluster"),
        (1234, MUTUAL_TCP, "tcp InboundPassthroughCluster"),
    ],
)
def test_strict_serves_the_mesh(port: int, arriving: tuple[bool, tuple[str, ...]], expected: str) -> None:
    assert inbound("STRICT", port, arriving) == (expected, True)


@pytest.mark.parametrize("port", [9080, 7777, 1234])
@pytest.mark.parametrize("arriving", [PLAIN_HTTP, PLAIN_TCP, APP_TLS, MUTUAL_HTTP, MUTUAL_TCP])
def test_disabled_opens_nothing(port: int, arriving: tuple[bool, tuple[str, ...]]) -> None:
    _, opened = inbound("DISABLE", port, arriving)
    assert not opened


@pytest.mark.parametrize("arriving", [PLAIN_HTTP, PLAIN_TCP, APP_TLS])
@pytest.mark.parametrize("port", [9080, 4321])
def test_a_strict_port_of_a_permissive_workload_has_no_way_round(
    port: int, arriving: tuple[bool, tuple[str, ...]]
) -> None:
    assert inbound("PERMISSIVE", port, arriving, f"{port}: {{mode: STRICT}}")[1]
    assert not inbound("PERMISSIVE", 5555, arriving, f"{port}: {{mode: STRICT}}")[1]


def test_a_permissive_port_of_a_strict_workload_takes_plaintext() -> None:
    assert inbound("STRICT", 9080, PLAIN_HTTP, "9080: {mode: PERMISSIVE}") == ("http inbound|9080||", False)
    assert inbound("STRICT", 9080, OTHERS_TLS, "9080: {mode: PERMISSIVE}") == ("tcp inbound|9080||", False)


@pytest.mark.parametrize("port", RESERVED_PORTS)
@pytest.mark.parametrize("arriving", [PLAIN_HTTP, MUTUAL_HTTP, MUTUAL_TCP])
def test_the_proxys_own_ports_never_reach_the_application(port: int, arriving: tuple[bool, tuple[str, ...]]) -> None:
    for mode in ("PERMISSIVE", "STRICT"):
        assert inbound(mode, port, arriving, f"{port}: {{mode: PERMISSIVE}}") == ("tcp BlackHoleCluster", False)


def test_every_mesh_chain_requires_a_certificate_that_leads_to_the_root() -> None:
    found = listener("virtualInbound", EVERYTHING, "10.244.0.11", "reviews-v1")
    opened = [chain for chain in [*found.filter_chains, found.default_filter_chain] if secured(chain)]
    assert opened
    for chain in opened:
        context = DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)
        assert context.require_client_certificate.value
        common = context.common_tls_context
        assert [secret.name for secret in common.tls_certificate_sds_secret_configs] == ["default"]
        assert common.combined_validation_context.validation_context_sds_secret_config.name == "ROOTCA"


ALIASES = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data:
  mesh: |
    trustDomainAliases: [old.example]
"""


@pytest.mark.parametrize(("more", "domains"), [("", ["cluster.local"]), (ALIASES, ["cluster.local", "old.example"])])
def test_callers_are_of_the_meshs_trust_domain_or_of_one_that_stands_for_it(more: str, domains: list[str]) -> None:
    found = listener("virtualInbound", EVERYTHING + more, "10.244.0.11", "reviews-v1")
    for chain in filter(secured, [*found.filter_chains, found.default_filter_chain]):
        context = DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value).common_tls_context
        accepted = context.combined_validation_context.default_validation_context.match_typed_subject_alt_names
        assert [(item.san_type, item.matcher.prefix) for item in accepted] == [
            (SubjectAltNameMatcher.URI, f"spiffe://{domain}/") for domain in domains
        ]


def test_both_listeners_recover_the_original_destination_first() -> None:
    for name in ("virtualInbound", "virtualOutbound"):
        assert listener(name).listener_filters[0].typed_config.type_url == types.ORIGINAL_DST


def test_a_named_target_port_is_looked_up_in_the_pod() -> None:
    text = (
        service("web", "[{name: http, port: 80, targetPort: web}]") + "---" + pod("w", "10.244.0.50", "web", port=8080)
    )
    found = listener("virtualInbound", text, "10.244.0.50", "w")
    assert target(chain_for(found, 8080, alpn=HTTP)) == "http inbound|8080||"
