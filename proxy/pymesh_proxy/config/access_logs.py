"""envoy.config.accesslog.v3.AccessLog → AccessLogFile."""

from collections.abc import Iterable, Mapping
from typing import Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StdoutAccessLog

from pymesh.errors import ConfigError
from pymesh.xds.check import join, unpack
from pymesh_proxy.config.fields import data, one_of, required
from pymesh_proxy.config.model import AccessLogFile
from pymesh_proxy.telemetry.log_format import ENVOY_TEXT_FORMAT, compile_format

STDOUT: Final = "/dev/stdout"
DEFAULT_FORMAT: Final = ENVOY_TEXT_FORMAT


def access_logs(logs: Iterable[AccessLog], path: str) -> tuple[AccessLogFile, ...]:
    """The access logs in the field at `path`.

    Raises:
        ConfigError: a log that is not a file, a format that is not text or flat JSON, or an operator that is not known.
    """
    return tuple(_access_log(log, f"{path}[{index}].typed_config") for index, log in enumerate(logs))


def _access_log(log: AccessLog, path: str) -> AccessLogFile:
    message = unpack(log.typed_config, path)
    here = join(path, "log_format")
    if isinstance(message, StdoutAccessLog):
        given = message.HasField("log_format")
        return AccessLogFile(STDOUT, _format(message.log_format, here) if given else DEFAULT_FORMAT)
    if not isinstance(message, FileAccessLog):
        raise ConfigError("an access log is a FileAccessLog or a StdoutAccessLog", path=path)
    given = message.HasField("log_format")
    file = required(message.path, join(path, "path"))
    return AccessLogFile(file, _format(message.log_format, here) if given else DEFAULT_FORMAT)


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
