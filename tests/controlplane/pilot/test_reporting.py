"""What proxies are told to report, by the world: to the collector, into a log, as spans."""

from collections.abc import Iterator

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf import json_format

from pymesh.access_log_formats import ISTIO_JSON_FORMAT, ISTIO_TEXT_FORMAT
from pymesh.xds import types
from tests.controlplane.pilot.reporting_worlds import OTEL, TRACED
from tests.controlplane.pilot.worlds import BOOKINFO, TELEMETRY, mesh_config, resources_for, sidecar, world_of

COLLECTOR = "outbound|9091||telemetry.pymesh-system.svc.cluster.local"
SPANS = "outbound|4317||otel.default.svc.cluster.local"


def handlers(text: str, **node: object) -> Iterator[HttpConnectionManager | TcpProxy]:
    """The network filter of every filter chain of a sidecar in the world of `text`."""
    for listener in resources_for(sidecar(**node), world_of(text))[types.LISTENER].values():
        assert isinstance(listener, Listener)
        for chain in (*listener.filter_chains, listener.default_filter_chain):
            box = chain.filters[0].typed_config
            kind = HttpConnectionManager if box.type_url == types.HTTP_CONNECTION_MANAGER else TcpProxy
            yield kind.FromString(box.value)


def test_where_there_is_nothing_to_report_to_nothing_is_reported() -> None:
    for handler in handlers(BOOKINFO):
        assert not handler.access_log
        assert not isinstance(handler, HttpConnectionManager) or not handler.HasField("tracing")


def test_every_chain_reports_to_the_collector_if_there_is_one() -> None:
    kinds = set()
    for handler in handlers(BOOKINFO + TELEMETRY):
        [log] = handler.access_log
        http = isinstance(handler, HttpConnectionManager)
        config = (HttpGrpcAccessLogConfig if http else TcpGrpcAccessLogConfig).FromString(log.typed_config.value)
        assert log.typed_config.TypeName() == config.DESCRIPTOR.full_name
        assert config.common_config.log_name == "pymesh"
        assert config.common_config.grpc_service.envoy_grpc.cluster_name == COLLECTOR
        kinds.add(type(handler))
    assert kinds == {HttpConnectionManager, TcpProxy}


def test_an_envoy_is_told_to_pass_on_what_its_callers_say_of_themselves() -> None:
    for user_agent, expected in (("envoy", ["peer_metadata"]), ("pymesh-proxy", [])):
        for handler in handlers(BOOKINFO + TELEMETRY, user_agent=user_agent):
            [log] = handler.access_log
            if isinstance(handler, HttpConnectionManager):
                config = HttpGrpcAccessLogConfig.FromString(log.typed_config.value).common_config
                assert [tag.tag for tag in config.custom_tags] == expected
            else:
                assert not TcpGrpcAccessLogConfig.FromString(log.typed_config.value).common_config.custom_tags


@pytest.mark.parametrize(
    ("config", "text", "members"),
    [
        ("accessLogFile: /dev/stdout", ISTIO_TEXT_FORMAT, {}),
        ("{accessLogFile: /dev/stdout, accessLogFormat: '%PROTOCOL%'}", "%PROTOCOL%\n", {}),
        ("{accessLogFile: /dev/stdout, accessLogEncoding: JSON}", "", ISTIO_JSON_FORMAT),
        (
            '{accessLogFile: /dev/stdout, accessLogEncoding: JSON, accessLogFormat: \'{"p": "%PROTOCOL%"}\'}',
            "",
            {"p": "%PROTOCOL%"},
        ),
    ],
)
def test_the_access_log_that_the_mesh_config_asks_for(config: str, text: str, members: dict[str, str]) -> None:
    for handler in handlers(BOOKINFO + mesh_config(config)):
        [log] = handler.access_log
        file = FileAccessLog.FromString(log.typed_config.value)
        assert file.path == "/dev/stdout"
        assert file.log_format.text_format_source.inline_string == text
        assert json_format.MessageToDict(file.log_format.json_format) == members


def test_a_log_file_does_not_keep_the_collector_from_being_told() -> None:
    for handler in handlers(BOOKINFO + TELEMETRY + mesh_config("accessLogFile: /dev/stdout")):
        assert len(handler.access_log) == 2


def test_requests_are_traced_where_the_mesh_config_names_a_provider_that_there_is() -> None:
    managers = [
        handler
        for handler in handlers(BOOKINFO + OTEL + mesh_config(TRACED))
        if isinstance(handler, HttpConnectionManager)
    ]
    assert managers
    for manager in managers:
        tracing = manager.tracing
        config = OpenTelemetryConfig.FromString(tracing.provider.typed_config.value)
        assert config.grpc_service.envoy_grpc.cluster_name == SPANS
        assert config.service_name == ""
        assert (tracing.client_sampling.value, tracing.random_sampling.value) == (100, 12.5)
        assert tracing.overall_sampling.value == 100


def test_an_envoy_is_told_as_whom_it_traces() -> None:
    [manager, *_] = (
        handler
        for handler in handlers(BOOKINFO + OTEL + mesh_config(TRACED), user_agent="envoy", workload="productpage-v1")
        if isinstance(handler, HttpConnectionManager)
    )
    config = OpenTelemetryConfig.FromString(manager.tracing.provider.typed_config.value)
    assert config.service_name == "productpage-v1.default"


@pytest.mark.parametrize("config", [TRACED, TRACED + "enableTracing: false"], ids=["no service", "turned off"])
def test_otherwise_requests_are_not_traced(config: str) -> None:
    text = BOOKINFO + mesh_config(config) + (OTEL if "false" in config else "")
    for handler in handlers(text):
        assert not isinstance(handler, HttpConnectionManager) or not handler.HasField("tracing")
