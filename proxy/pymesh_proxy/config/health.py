"""How the health of a cluster's endpoints is found out: envoy HealthCheck and OutlierDetection → HealthCheck,
OutlierSettings."""

import re
from collections.abc import Sequence
from typing import Final

from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.config.core.v3.health_check_pb2 import HealthCheck as HealthCheckMessage
from envoy.type.v3.range_pb2 import Int64Range

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.config.fields import duration, flag, number, one_of, positive, required
from pymesh_proxy.upstream.health import HealthCheck, HttpCheck, TcpCheck
from pymesh_proxy.upstream.outlier import ENFORCING, Ejection, OutlierSettings

# Envoy's default where `method` is not given.
_GET: Final = "GET"
_STATUSES: Final = range(100, 600)
_TARGET: Final = re.compile(r"/[\x21-\x7e]*")
_HOST: Final = re.compile(r"[\x21-\x7e]*")

# Field -> the kind of ejection whose enforcement it sets.
_ENFORCING: Final = {
    "enforcing_consecutive_5xx": Ejection.CONSECUTIVE_5XX,
    "enforcing_consecutive_gateway_failure": Ejection.CONSECUTIVE_GATEWAY_FAILURE,
    "enforcing_consecutive_local_origin_failure": Ejection.CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
    "enforcing_success_rate": Ejection.SUCCESS_RATE,
    "enforcing_local_origin_success_rate": Ejection.LOCAL_ORIGIN_SUCCESS_RATE,
    "enforcing_failure_percentage": Ejection.FAILURE_PERCENTAGE,
    "enforcing_failure_percentage_local_origin": Ejection.LOCAL_ORIGIN_FAILURE_PERCENTAGE,
}


# --- Outlier detection ---------------------------------------------------------------------------------------------


def outlier_detection(message: OutlierDetection, path: str) -> OutlierSettings:
    """envoy.config.cluster.v3.OutlierDetection.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    base = positive(message, "base_ejection_time", 30.0, path)
    longest = positive(message, "max_ejection_time", max(300.0, base), path)
    if longest < base:
        raise ConfigError("is less than base_ejection_time", path=join(path, "max_ejection_time"))
    return OutlierSettings(
        interval=positive(message, "interval", 10.0, path),
        base_ejection_time=base,
        max_ejection_time=longest,
        max_ejection_time_jitter=duration(message.max_ejection_time_jitter, join(path, "max_ejection_time_jitter")),
        max_ejection_percent=_percent(message, "max_ejection_percent", 10, path),
        always_eject_one=flag(message, "always_eject_one_host", default=False),
        consecutive_5xx=number(message, "consecutive_5xx", 5),
        consecutive_gateway_failure=number(message, "consecutive_gateway_failure", 5),
        consecutive_local_origin_failure=number(message, "consecutive_local_origin_failure", 5),
        split_local_origin=message.split_external_local_origin_errors,
        success_rate_minimum_hosts=number(message, "success_rate_minimum_hosts", 5),
        success_rate_request_volume=number(message, "success_rate_request_volume", 100),
        success_rate_stdev_factor=number(message, "success_rate_stdev_factor", 1900) / 1000,
        failure_percentage_threshold=_percent(message, "failure_percentage_threshold", 85, path),
        failure_percentage_minimum_hosts=number(message, "failure_percentage_minimum_hosts", 5),
        failure_percentage_request_volume=number(message, "failure_percentage_request_volume", 50),
        uneject_when_checked=flag(message, "successful_active_health_check_uneject_host", default=True),
        enforcing={kind: _percent(message, field, ENFORCING[kind], path) for field, kind in _ENFORCING.items()},
    )


def _percent(message: OutlierDetection, field: str, default: int, path: str) -> int:
    value = number(message, field, default)
    if value > 100:
        raise ConfigError("must be 0 to 100", path=join(path, field))
    return value


# --- Health checks -------------------------------------------------------------------------------------------------


def health_check(messages: Sequence[HealthCheckMessage], path: str) -> HealthCheck | None:
    """The health check of a cluster, of which there is at most one.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    if len(messages) > 1:
        raise ConfigError("at most one is supported, as in Envoy", path=path)
    return _health_check(messages[0], f"{path}[0]") if messages else None


def _health_check(message: HealthCheckMessage, path: str) -> HealthCheck:
    for field in ("timeout", "interval", "unhealthy_threshold", "healthy_threshold"):
        if not message.HasField(field):
            raise ConfigError("is required", path=join(path, field))
    interval = positive(message, "interval", 1.0, path)
    unhealthy = positive(message, "unhealthy_interval", interval, path)
    idle = positive(message, "no_traffic_interval", 60.0, path)
    which = one_of(message, "health_checker", path)
    here = join(path, which)
    return HealthCheck(
        what=_http(message.http_health_check, here) if which == "http_health_check" else _tcp(message, here),
        timeout=positive(message, "timeout", 1.0, path),
        interval=interval,
        unhealthy_threshold=number(message, "unhealthy_threshold", 1),
        healthy_threshold=number(message, "healthy_threshold", 1),
        unhealthy_interval=unhealthy,
        unhealthy_edge_interval=positive(message, "unhealthy_edge_interval", unhealthy, path),
        healthy_edge_interval=positive(message, "healthy_edge_interval", interval, path),
        no_traffic_interval=idle,
        no_traffic_healthy_interval=positive(message, "no_traffic_healthy_interval", idle, path),
        initial_jitter=duration(message.initial_jitter, join(path, "initial_jitter")),
        jitter=duration(message.interval_jitter, join(path, "interval_jitter")),
        jitter_percent=message.interval_jitter_percent,
        reuse=flag(message, "reuse_connection", default=True),
    )


def _http(message: HealthCheckMessage.HttpHealthCheck, path: str) -> HttpCheck:
    target = required(message.path, join(path, "path"))
    if not _TARGET.fullmatch(target):
        raise ConfigError("must be a path of printable ASCII", path=join(path, "path"))
    if not _HOST.fullmatch(message.host):
        raise ConfigError(f"{message.host!r} is not a host", path=join(path, "host"))
    method = RequestMethod.Name(message.method) if message.method else _GET
    if method == "CONNECT":
        raise ConfigError("CONNECT is no health check", path=join(path, "method"))
    return HttpCheck(
        path=target,
        host=message.host,
        method=method,
        expected=_ranges(message.expected_statuses, join(path, "expected_statuses")) or ((200, 201),),
        retriable=_ranges(message.retriable_statuses, join(path, "retriable_statuses")),
    )


def _ranges(ranges: Sequence[Int64Range], path: str) -> tuple[tuple[int, int], ...]:
    for index, one in enumerate(ranges):
        if not _STATUSES.start <= one.start < one.end <= _STATUSES.stop:
            raise ConfigError("must be within 100 and 600, and not empty", path=f"{path}[{index}]")
    return tuple((one.start, one.end) for one in ranges)


def _tcp(message: HealthCheckMessage, path: str) -> TcpCheck:
    check = message.tcp_health_check
    return TcpCheck(
        send=_payload(check.send, join(path, "send")) if check.HasField("send") else b"",
        receive=tuple(_payload(part, f"{join(path, 'receive')}[{index}]") for index, part in enumerate(check.receive)),
    )


def _payload(payload: HealthCheckMessage.Payload, path: str) -> bytes:
    if one_of(payload, "payload", path) == "binary":
        return payload.binary
    try:
        return bytes.fromhex(payload.text)
    except ValueError as error:
        raise ConfigError("must be hexadecimal digits", path=join(path, "text")) from error
