"""The probes of an app that its sidecar asks in the kubelet's stead: what both planes say of them.

A kubelet speaks no mutual TLS, so in a STRICT pod it cannot ask the app. The injector points its probes at the
sidecar's port 15020 and writes what was to be asked into the sidecar's environment; paths are those of Istio's agent.

    {"/app-health/reviews/readyz": {"httpGet": {"path": "/health", "port": 9080}, "timeoutSeconds": 1}, …}
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pymesh import names
from pymesh.errors import ConfigError

VARIABLE: Final = names.APP_PROBES_VARIABLE

# What a path ends in, by the field of the container that it stands for.
PROBES: Final = {"livenessProbe": "livez", "readinessProbe": "readyz", "startupProbe": "startupz"}
HOOKS: Final = {"postStart": "poststartz", "preStop": "prestopz"}

# Kubernetes' default, and the longest that anything of a pod may take here: a day, in seconds.
DEFAULT_TIMEOUT: Final = 1
MAX_TIMEOUT: Final = 86_400
# Bytes of the variable: the kernel takes no string of more than 128 KiB to an exec (MAX_ARG_STRLEN).
MAX_BYTES: Final = 100_000
# Where the sidecar itself answers: it is asked there directly, and never asks itself.
OWN_PORTS: Final = frozenset(
    {names.PORT_ADMIN, names.PORT_OUTBOUND, names.PORT_INBOUND, names.PORT_APP_HEALTH}
    | {names.PORT_READINESS, names.PORT_METRICS}
)

# Names of containers are labels of RFC 1123.
_PATH: Final = re.compile(
    r"/app-health/[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/(livez|readyz|startupz)"
    r"|/app-lifecycle/[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/(poststartz|prestopz)"
)
# RFC 9110, 5.6.2 and 5.5, with HTAB and without bytes beyond ASCII.
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]{0,8192}")


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """200 to 399 is success. `headers` are sent besides, or instead of, what a kubelet sends."""

    port: int
    path: str = "/"
    secure: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """An accepted connection is success."""

    port: int


@dataclass(frozen=True, slots=True)
class GrpcCheck:
    """SERVING, said by `grpc.health.v1.Health/Check` of `service`, is success."""

    port: int
    service: str = ""


Check: TypeAlias = HttpCheck | TcpCheck | GrpcCheck


@dataclass(frozen=True, slots=True)
class AppProbe:
    """One thing to ask the app; `timeout` in seconds."""

    check: Check
    timeout: int = DEFAULT_TIMEOUT


def probe_path(container: str, field: str) -> str:
    """Where the sidecar answers for `field` of `container`: one of `PROBES`, or of `HOOKS`."""
    return (
        f"/app-lifecycle/{container}/{HOOKS[field]}" if field in HOOKS else f"/app-health/{container}/{PROBES[field]}"
    )


def is_probe_path(path: str) -> bool:
    """Whether `path` is one that `probe_path` makes for a container that there can be."""
    return _PATH.fullmatch(path) is not None


def parse(text: str) -> dict[str, AppProbe]:
    """What to ask, by path, from the text of the variable.

    Raises:
        ConfigError: anything in it is not as it has to be; its path is the field below the variable.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"more than {MAX_BYTES} bytes", path=VARIABLE)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {str(error)[:100]}", path=VARIABLE) from None
    probes = {}
    for path, item in _object(document, VARIABLE).items():
        where = f"{VARIABLE}[{path}]"
        if not is_probe_path(path):
            raise ConfigError("not a path of the form /app-health/<container>/readyz", path=where)
        probes[path] = read_probe(item, where)
    return probes


def read_probe(item: object, where: str) -> AppProbe:
    """One probe, its ports as numbers; `where` stands before the paths of errors.

    Raises:
        ConfigError: anything in it is not as it has to be.
    """
    fields = _object(item, where, allowed={"timeoutSeconds", *_CHECKS})
    kinds = [kind for kind in _CHECKS if kind in fields]
    if len(kinds) != 1:
        raise ConfigError(f"one of {', '.join(_CHECKS)} is needed", path=where)
    timeout = _number(fields.get("timeoutSeconds", DEFAULT_TIMEOUT), 1, MAX_TIMEOUT, f"{where}.timeoutSeconds")
    return AppProbe(_CHECKS[kinds[0]](fields[kinds[0]], f"{where}.{kinds[0]}"), timeout)


def _http(item: object, where: str) -> HttpCheck:
    fields = _object(item, where, allowed={"port", "path", "scheme", "httpHeaders"})
    scheme = fields.get("scheme", "HTTP")
    if scheme not in ("HTTP", "HTTPS"):
        raise ConfigError("write HTTP or HTTPS", path=f"{where}.scheme")
    headers = fields.get("httpHeaders", [])
    if not isinstance(headers, list):
        raise ConfigError("a list belongs here", path=f"{where}.httpHeaders")
    pairs = tuple(_header(header, f"{where}.httpHeaders[{index}]") for index, header in enumerate(headers))
    return HttpCheck(_port(fields, where), _text(fields.get("path", "/"), f"{where}.path"), scheme == "HTTPS", pairs)


def _header(item: object, where: str) -> tuple[str, str]:
    fields = _object(item, where, allowed={"name", "value"})
    name, value = _text(fields.get("name", ""), f"{where}.name"), _text(fields.get("value", ""), f"{where}.value")
    if _HEADER_NAME.fullmatch(name) is None:
        raise ConfigError(f"{name!r} is not the name of a header", path=f"{where}.name")
    if _HEADER_VALUE.fullmatch(value) is None:
        raise ConfigError("not the value of a header: printable ASCII", path=f"{where}.value")
    return name, value


def _tcp(item: object, where: str) -> TcpCheck:
    return TcpCheck(_port(_object(item, where, allowed={"port"}), where))


def _grpc(item: object, where: str) -> GrpcCheck:
    fields = _object(item, where, allowed={"port", "service"})
    return GrpcCheck(_port(fields, where), _text(fields.get("service") or "", f"{where}.service"))


_CHECKS: Final[Mapping[str, Callable[[object, str], Check]]] = {"httpGet": _http, "tcpSocket": _tcp, "grpc": _grpc}


def _port(fields: Mapping[str, Any], where: str) -> int:
    port = _number(fields.get("port"), 1, 65535, f"{where}.port")
    if port in OWN_PORTS:
        raise ConfigError(f"port {port} is the sidecar's own: it would ask itself", path=f"{where}.port")
    return port


def _object(item: object, where: str, allowed: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ConfigError("a mapping belongs here", path=where)
    for name in item:
        if allowed is not None and name not in allowed:
            raise ConfigError(f"unknown field; known are {', '.join(sorted(allowed))}", path=f"{where}.{name}")
    return item


def _number(value: object, least: int, most: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"a whole number from {least} to {most} belongs here", path=where)
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigError("a text belongs here", path=where)
    return value
