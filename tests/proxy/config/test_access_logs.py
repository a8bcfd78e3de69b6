"""Access logs to an access log service: what of its configuration is taken, and what is refused."""

import json
from typing import Any

import pytest
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from google.protobuf import json_format

from pymesh.errors import ConfigError
from pymesh.xds.check import check
from pymesh_proxy.config.access_logs import access_logs
from pymesh_proxy.config.model import GrpcAccessLog

SERVICE = {"envoy_grpc": {"cluster_name": "telemetry"}}


def log(kind: str = "Http", more: dict[str, Any] | None = None, **common: object) -> AccessLog:
    config = {
        "@type": f"type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.{kind}GrpcAccessLogConfig",
        "common_config": {"log_name": "a", "grpc_service": SERVICE, **common},
        **(more or {}),
    }
    message: AccessLog = json_format.Parse(json.dumps({"name": "x", "typed_config": config}), AccessLog())
    return message


def test_what_is_not_said_is_as_in_envoy() -> None:
    assert access_logs([log()], "l") == (GrpcAccessLog("http", "telemetry", "a", 1.0, 16 * 1024),)
    assert access_logs([log("Tcp")], "l", tcp=True) == (GrpcAccessLog("tcp", "telemetry", "a", 1.0, 16 * 1024),)


def test_everything_that_can_be_said() -> None:
    headers = {"additional_request_headers_to_log": ["X-A"], "additional_response_headers_to_log": ["X-B"]}
    message = log("Http", headers, buffer_flush_interval="2.5s", buffer_size_bytes=0, transport_api_version="V3")
    check(message)
    assert access_logs([message], "l") == (GrpcAccessLog("http", "telemetry", "a", 2.5, 0, ("x-a",), ("x-b",)),)


@pytest.mark.parametrize(
    ("message", "tcp", "path"),
    [
        (log("Tcp"), False, "l[0].typed_config"),
        (log("Http"), True, "l[0].typed_config"),
        (log(log_name=""), False, "l[0].typed_config.common_config.log_name"),
        (log(grpc_service={}), False, "l[0].typed_config.common_config.grpc_service"),
        (
            log(grpc_service={"envoy_grpc": {}}),
            False,
            "l[0].typed_config.common_config.grpc_service.envoy_grpc.cluster_name",
        ),
        (log(buffer_flush_interval="0s"), False, "l[0].typed_config.common_config.buffer_flush_interval"),
    ],
)
def test_what_cannot_be_is_refused(message: AccessLog, tcp: bool, path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        access_logs([message], "l", tcp=tcp)
    assert refused.value.path == path


@pytest.mark.parametrize(
    "message",
    [
        log(transport_api_version="V2"),
        log(filter_state_objects_to_log=["x"]),
        log("Http", {"additional_response_trailers_to_log": ["grpc-status"]}),
        log(grpc_service={"google_grpc": {"target_uri": "x", "stat_prefix": "y"}}),
    ],
)
def test_what_is_not_supported_is_refused_by_the_table(message: AccessLog) -> None:
    with pytest.raises(ConfigError):
        check(message)
