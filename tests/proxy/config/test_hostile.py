"""Whatever a control plane sends: it is put in force or refused with a ConfigError, and nothing else happens."""

import contextlib
import json
from typing import Final

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.errors import ConfigError
from pymesh.xds import types
from pymesh.xds.decode import from_data, load_bootstrap
from pymesh.xds.text import parse
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.upstream.registry import EndpointRegistry
from tests.conformance.sides import BOOTSTRAP
from tests.support.configuration import apply
from tests.support.xds import message

_PORTS: Final = {"${LISTEN}": "1", "${A}": "2", "${B}": "3", "${DEAD}": "4"}


def bootstrap() -> object:
    text = BOOTSTRAP.read_text()
    for name, port in _PORTS.items():
        text = text.replace(name, port)
    return parse(text, "bootstrap.yaml").data


AS_JSON: Final = json.dumps(bootstrap())
RESOURCES: Final = from_data(bootstrap(), Bootstrap).static_resources
LISTENER: Final = RESOURCES.listeners[0]
CLUSTER: Final = message(
    type(RESOURCES.clusters[0]),
    """
    name: a
    type: STRICT_DNS
    load_assignment: {cluster_name: a, endpoints: [{priority: 1, lb_endpoints: [{load_balancing_weight: 3,
      endpoint: {address: {socket_address: {address: reviews, port_value: 80}}},
      metadata: {filter_metadata: {istio: {workload: 'a;b;c'}}}}]}]}
    metadata: {filter_metadata: {istio: {services: [{host: a}]}}}
    lb_policy: RING_HASH
    ring_hash_lb_config: {minimum_ring_size: 100, maximum_ring_size: 1000, hash_function: MURMUR_HASH_2}
    common_lb_config: {healthy_panic_threshold: {value: 10}, locality_weighted_lb_config: {}}
    outlier_detection: {consecutive_5xx: 3, interval: 1s, max_ejection_percent: 50, enforcing_success_rate: 0}
    health_checks: [{timeout: 1s, interval: 2s, unhealthy_threshold: 2, healthy_threshold: 2,
      http_health_check: {path: /healthz, host: a, expected_statuses: [{start: 200, end: 300}]}}]
    transport_socket_matches:
    - name: m
      match: {tlsMode: istio}
      transport_socket: {name: t, typed_config: {
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
        common_tls_context: {tls_certificate_sds_secret_configs: [{name: default}]}}}
    """,
)


@st.composite
def damaged(draw: st.DrawFn, original: Message) -> bytes:
    """The bytes of a good message with a few of them changed, cut out or put in."""
    data = bytearray(original.SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


def put(type_url: str, original: Message, data: bytes) -> None:
    config = Configuration(EndpointRegistry(), lambda: 0.5)
    apply(config, types.CLUSTER, {cluster.name: cluster for cluster in RESOURCES.clusters})
    before = config.snapshot
    try:
        resource = type(original).FromString(data)
        apply(config, type_url, {"x": resource})
    except (ConfigError, DecodeError):
        assert config.snapshot is before


@settings(max_examples=300, deadline=None)
@given(damaged(LISTENER))
def test_damaged_listeners(data: bytes) -> None:
    put(types.LISTENER, LISTENER, data)


@settings(max_examples=300, deadline=None)
@given(damaged(CLUSTER))
def test_damaged_clusters(data: bytes) -> None:
    put(types.CLUSTER, CLUSTER, data)


ODD: Final = (
    "null", "true", "-1", "0", "99", "4294967296", "1.5", '""', '"*"', '"%"', '"a\\u0000b"', '"é"', '"/"', '"0s"',
    '"-1s"', '"9e9s"', '"["', "[]", "{}", "[{}]",
)  # fmt: skip


@st.composite
def odd(draw: st.DrawFn) -> object:
    """The bootstrap of the conformance tests with a few values, at any depth, replaced by odd ones."""
    data = json.loads(AS_JSON)
    for _ in range(draw(st.integers(1, 3))):
        place = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.integers(0, 9)) == 0:
                place[key] = json.loads(draw(st.sampled_from(ODD)))
                break
            place = place[key]
    return data


@settings(max_examples=100, deadline=None)
@given(odd())
def test_odd_bootstraps(data: object) -> None:
    config = Configuration(EndpointRegistry(), lambda: 0.5)
    with contextlib.suppress(ConfigError):
        config.apply_bootstrap(load_bootstrap(json.dumps(data), "bootstrap.json"))
        assert config.snapshot.version == 1
        return
    assert config.snapshot.version == 0


@pytest.mark.parametrize(("type_url", "original"), [(types.LISTENER, LISTENER), (types.CLUSTER, CLUSTER)])
def test_undamaged_they_are_accepted(type_url: str, original: Message) -> None:
    config = Configuration(EndpointRegistry(), lambda: 0.5)
    apply(config, types.CLUSTER, {cluster.name: cluster for cluster in RESOURCES.clusters})
    apply(config, type_url, {"x": original})
    assert config.snapshot.version == 2
