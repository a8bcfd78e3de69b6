"""envoy.config.accesslog.v3.AccessLog → AccessLogFile or GrpcAccessLog."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog as AccessLogMessage
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
    TcpGrpcAccessLogConfig,
)
from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StdoutAccessLog

from pymesh.access_log_formats import ENVOY_TEXT_FORMAT
from pymesh.errors import ConfigError
from pymesh.xds.check import join, unpack
from pymesh_proxy.config.fields import data, grpc_cluster, number, one_of, positive, required
from pymesh_proxy.config.model import AccessLog, AccessLogFile, GrpcAccessLog
from pymesh_proxy.telemetry.log_format import compile_format

STDOUT: Final = "/dev/stdout"
DEFAULT_FORMAT: Final = ENVOY_TEXT_FORMAT

# Envoy's defaults for a batch of entries: seconds, bytes.
DEFAULT_FLUSH_INTERVAL: Final = 1.0
DEFAULT_BUFFER_SIZE: Final = 16 * 1024


def access_logs(logs: Iterable[AccessLogMessage], path: str, *, tcp: bool = False) -> tuple[AccessLog, ...]:
    """The access logs in the field at `path`, of a TCP proxy or of an HTTP manager.

    Raises:
        ConfigError: a log that is neither a file nor a gRPC service for this kind of traffic, a format that is not text
            or flat JSON, or an operator that is not known.
    """
    return tuple(_access_log(log, f"{path}[{index}].typed_config", tcp=tcp) for index, log in enumerate(logs))


def _access_log(log: AccessLogMessage, path: str, *, tcp: bool) -> AccessLog:
    message = unpack(log.typed_config, path)
    match message:
        case HttpGrpcAccessLogConfig() if not tcp:
            return _http_service(message, path)
        case TcpGrpcAccessLogConfig() if tcp:
            return _service("tcp", message.common_config, join(path, "common_config"))
        case HttpGrpcAccessLogConfig() | TcpGrpcAccessLogConfig():
            wanted = "TcpGrpcAccessLogConfig" if tcp else "HttpGrpcAccessLogConfig"
            raise ConfigError(f"here the access log service is told of by a {wanted}", path=path)
        case StdoutAccessLog():
            return AccessLogFile(STDOUT, _file_format(message, path))
        case FileAccessLog():
            return AccessLogFile(required(message.path, join(path, "path")), _file_format(message, path))
        case _:
            problem = "an access log is a FileAccessLog, a StdoutAccessLog or a GrpcAccessLogConfig"
            raise ConfigError(problem, path=path)


def _http_service(message: HttpGrpcAccessLogConfig, path: str) -> GrpcAccessLog:
    return _service(
        "http",
        message.common_config,
        join(path, "common_config"),
        tuple(name.lower() for name in message.additional_request_headers_to_log),
        tuple(name.lower() for name in message.additional_response_headers_to_log),
    )


def _service(
    kind: Literal["http", "tcp"],
    common: CommonGrpcAccessLogConfig,
    path: str,
    request_headers: tuple[str, ...] = (),
    response_headers: tuple[str, ...] = (),
) -> GrpcAccessLog:
    return GrpcAccessLog(
        kind,
        grpc_cluster(common.grpc_service, join(path, "grpc_service")),
        required(common.log_name, join(path, "log_name")),
        positive(common, "buffer_flush_interval", DEFAULT_FLUSH_INTERVAL, path),
        number(common, "buffer_size_bytes", DEFAULT_BUFFER_SIZE),
        request_headers,
        response_headers,
    )


def _file_format(message: FileAccessLog | StdoutAccessLog, path: str) -> str | Mapping[str, str]:
    if not message.HasField("log_format"):
        return DEFAULT_FORMAT
    return _format(message.log_format, join(path, "log_format"))


def _format(message: SubstitutionFormatString, path: str) -> str | Mapping[str, str]:
    which = one_of(message, "format", path)
    found = _text_or_members(message, which, path)
    try:
        compile_format(found)
    except ConfigError as error:
        raise error.at(join(path, which)) from None
    return found


def _text_or_members(message: SubstitutionFormatString, which: str, path: str) -> str | Mapping[str, str]:
    if which == "text_format":
        return message.text_format
    if which == "text_format_source":
        try:
            return data(message.text_format_source, join(path, which)).decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"not UTF-8 text: {error.reason}", path=join(path, which)) from error
    formats: dict[str, str] = {}
    for key, value in message.json_format.fields.items():
        if value.WhichOneof("kind") != "string_value":
            raise ConfigError("only strings are supported", path=f"{path}.json_format.{key}")
        formats[key] = value.string_value
    return formats
