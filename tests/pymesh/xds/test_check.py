"""Unsupported fields are refused with their full path, wherever they hide."""

import pytest
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, RouteMatch
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.xds.check import check, problems, unpack


def packed(message: Message) -> AnyMessage:
    found = AnyMessage()
    found.Pack(message)
    return found


def listener(manager: HttpConnectionManager) -> Listener:
    message = Listener(name="web")
    message.filter_chains.add().filters.add(name="http", typed_config=packed(manager))
    return message


def refused(message: Message, path: str = "") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check(message, path)
    return caught.value


def test_a_field_inside_an_any_inside_a_list_has_its_full_path() -> None:
    manager = HttpConnectionManager(route_config=RouteConfiguration())
    host = manager.route_config.virtual_hosts.add(name="all")
    host.routes.add(match=RouteMatch(prefix="/"))
    host.routes.add(match=RouteMatch(tls_context=RouteMatch.TlsContextMatchOptions()))
    bootstrap = Bootstrap()
    bootstrap.static_resources.listeners.append(listener(manager))
    error = refused(bootstrap)
    assert error.path == (
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0]"
        ".routes[1].match.tls_context"
    )
    assert "not supported" in error.problem


def test_defaults_do_not_count_as_set() -> None:
    check(Cluster(name="a", connection_pool_per_downstream_connection=False, lb_policy=Cluster.ROUND_ROBIN))


def test_every_problem_is_found() -> None:
    message = Cluster(name="a", track_cluster_stats={}, cleanup_interval={"seconds": 1}, lb_policy=Cluster.MAGLEV)
    found = {error.path: error.problem for error in problems(message)}
    assert set(found) == {"track_cluster_stats", "cleanup_interval", "lb_policy"}
    assert "MAGLEV" in found["lb_policy"]
    assert "LEAST_REQUEST" in found["lb_policy"]


def test_a_value_that_the_enum_does_not_have_is_refused() -> None:
    message = HttpConnectionManager(forward_client_cert_details=77)  # type: ignore[arg-type]  # a later Envoy's value
    assert refused(message).path == "forward_client_cert_details"


def test_an_unknown_type_is_refused() -> None:
    message = TransportSocket(name="x", typed_config=AnyMessage(type_url="type.googleapis.com/acme.Quic"))
    error = refused(message, "transport_socket")
    assert error.path == "transport_socket.typed_config"
    assert "acme.Quic" in error.problem


def test_a_type_of_the_schema_that_is_not_ours_is_refused() -> None:
    message = TransportSocket(name="x", typed_config=packed(AccessLog(name="x")))
    assert refused(message).path == "typed_config"


def test_bytes_that_are_not_the_message_are_refused() -> None:
    broken = packed(Route(name="x"))
    broken.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    broken.value = b"\xff\xff\xff"
    with pytest.raises(ConfigError, match=r"envoy\.config\.cluster\.v3\.Cluster") as caught:
        unpack(broken, "resources[3]")
    assert caught.value.path == "resources[3]"


def test_an_optional_filter_of_an_unknown_type_is_let_through_and_a_required_one_is_not() -> None:
    unknown = AnyMessage(type_url="type.googleapis.com/acme.Magic")
    manager = HttpConnectionManager(http_filters=[HttpFilter(name="magic", typed_config=unknown, is_optional=True)])
    check(listener(manager))
    manager.http_filters[0].is_optional = False
    path = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config"
    assert refused(listener(manager)).path == path


def test_map_entries_are_named_by_their_key() -> None:
    message = Cluster(name="a")
    message.typed_extension_protocol_options["acme"].type_url = "type.googleapis.com/acme.Options"
    assert refused(message).path == 'typed_extension_protocol_options["acme"]'


def test_what_opaque_fields_hold_is_not_looked_at() -> None:
    from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig

    message = SdsSecretConfig(name="default")
    message.sds_config.path_config_source.path = "/etc/sds.yaml"
    check(message)
