"""What a pod's annotations say about its sidecar, checked. Pure.

Source: Istio's resource annotations (`sidecar.istio.io/…`, `traffic.sidecar.istio.io/…`). An annotation below these
prefixes that is not in `SUPPORTED` is refused by name: a setting that nobody reads is worse than an error.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar, overload

from pymesh import names
from pymesh.app_probes import OWN_PORTS
from pymesh.errors import ConfigError

ANNOTATION_INJECT: Final = "sidecar.istio.io/inject"
ANNOTATION_STATUS: Final = "sidecar.istio.io/status"
ANNOTATION_PROXY: Final = "sidecar.pymesh.io/proxy"
_TRAFFIC: Final = "traffic.sidecar.istio.io/"
_SIDECAR: Final = "sidecar.istio.io/"
_STATUS_PORT: Final = "status.sidecar.istio.io/port"
_READINESS: Final = "readiness.status.sidecar.istio.io/"

# Below these prefixes everything is addressed to the injector.
_OURS: Final = (
    *(_SIDECAR, _TRAFFIC, "sidecar.pymesh.io/", "proxy.istio.io/", "inject.istio.io/"),
    *("status.sidecar.istio.io/", _READINESS),
)

# Kubernetes' Quantity: a decimal number and a suffix (resource.Quantity, "serialization format").
_QUANTITY: Final = re.compile(r"[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i|[eE][0-9]{1,2})?", re.ASCII)
# An image reference without the rules for each part: enough to stop spaces, quotes and options.
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,510}", re.ASCII)

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
PROXIES: Final = ("pymesh", "envoy")

_RESOURCES: Final = {
    _SIDECAR + "proxyCPU": ("requests", "cpu"),
    _SIDECAR + "proxyMemory": ("requests", "memory"),
    _SIDECAR + "proxyCPULimit": ("limits", "cpu"),
    _SIDECAR + "proxyMemoryLimit": ("limits", "memory"),
}

# Fields of the probe that asks whether the sidecar is ready, and their least values.
_PROBE_FIELDS: Final = {"initialDelaySeconds": 0, "periodSeconds": 1, "failureThreshold": 1}

SUPPORTED: Final = frozenset(
    {
        ANNOTATION_INJECT,
        ANNOTATION_STATUS,
        ANNOTATION_PROXY,
        _STATUS_PORT,
        *_RESOURCES,
        *(_READINESS + name for name in _PROBE_FIELDS),
        *(_SIDECAR + name for name in ("proxyImage", "logLevel", "nativeSidecar", "rewriteAppHTTPProbers")),
        *(_TRAFFIC + way + what for way in ("include", "exclude") for what in ("InboundPorts", "OutboundPorts")),
        *(_TRAFFIC + way + "OutboundIPRanges" for way in ("include", "exclude")),
    }
)

_T = TypeVar("_T")

ALL: Final[tuple[str, ...]] = ("*",)

# Reached from outside the pod by a kubelet or Prometheus, so never redirected.
ALWAYS_EXCLUDED_INBOUND: Final = (str(names.PORT_METRICS), str(names.PORT_READINESS), str(names.PORT_APP_HEALTH))
# Seconds or counts in the annotations for the sidecar's probe: a day is more than anyone means.
_MAX_PROBE_VALUE: Final = 86_400


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """One pod's answers; None means "as the mesh is configured".

    Ports and ranges are tuples of decimal ports and CIDRs; `ALL` is all of them, `()` is none. `include_outbound_ports`
    are caught whatever their destination, so with all ranges included, which is the default, they add nothing.
    `resources` maps (`requests` | `limits`, `cpu` | `memory`) to a Kubernetes quantity; `readiness` are fields of the
    probe that asks the sidecar. With `rewrite_probes` the app's are led through the sidecar, at its `status_port`.
    """

    proxy: str = "pymesh"
    image: str | None = None
    log_level: str | None = None
    native: bool | None = None
    include_inbound_ports: tuple[str, ...] = ALL
    exclude_inbound_ports: tuple[str, ...] = ALWAYS_EXCLUDED_INBOUND
    include_outbound_ports: tuple[str, ...] = ()
    exclude_outbound_ports: tuple[str, ...] = ()
    include_outbound_ranges: tuple[str, ...] = ALL
    exclude_outbound_ranges: tuple[str, ...] = ()
    resources: Mapping[tuple[str, str], str] | None = None
    rewrite_probes: bool = True
    status_port: int = names.PORT_APP_HEALTH
    readiness: Mapping[str, int] = field(default_factory=dict)


def read_settings(annotations: Mapping[str, str]) -> SidecarSettings:
    """The settings in a pod's annotations.

    Raises:
        ConfigError: a value makes no sense, or an annotation is meant for an injector but unknown to this one. Its path
            is the annotation's, below the pod.
    """
    for name in annotations:
        if name.startswith(_OURS) and name not in SUPPORTED:
            raise ConfigError(
                f"this annotation is not supported; supported are {', '.join(sorted(SUPPORTED))}",
                path=annotation_path(name),
            )
    user_excluded = _read(annotations, _TRAFFIC + "excludeInboundPorts", _port_list) or ()
    quantities = {key: _read(annotations, name, _quantity) for name, key in _RESOURCES.items()}
    readiness = {name: _read(annotations, _READINESS + name, _at_least(least)) for name, least in _PROBE_FIELDS.items()}
    status_port = _read(annotations, _STATUS_PORT, _status_port, names.PORT_APP_HEALTH)
    never_caught = (*ALWAYS_EXCLUDED_INBOUND, str(status_port))
    return SidecarSettings(
        proxy=_read(annotations, ANNOTATION_PROXY, _proxy) or "pymesh",
        image=_read(annotations, _SIDECAR + "proxyImage", _image),
        log_level=_read(annotations, _SIDECAR + "logLevel", _log_level),
        native=_read(annotations, _SIDECAR + "nativeSidecar", read_bool),
        include_inbound_ports=_read(annotations, _TRAFFIC + "includeInboundPorts", _ports_or_all, ALL),
        exclude_inbound_ports=tuple(dict.fromkeys((*never_caught, *user_excluded))),
        include_outbound_ports=_read(annotations, _TRAFFIC + "includeOutboundPorts", _port_list, ()),
        exclude_outbound_ports=_read(annotations, _TRAFFIC + "excludeOutboundPorts", _port_list, ()),
        include_outbound_ranges=_read(annotations, _TRAFFIC + "includeOutboundIPRanges", _ranges_or_all, ALL),
        exclude_outbound_ranges=_read(annotations, _TRAFFIC + "excludeOutboundIPRanges", _range_list, ()),
        resources={key: quantity for key, quantity in quantities.items() if quantity is not None} or None,
        rewrite_probes=_read(annotations, _SIDECAR + "rewriteAppHTTPProbers", read_bool, True),
        status_port=status_port,
        readiness={name: value for name, value in readiness.items() if value is not None},
    )


@overload
def _read(annotations: Mapping[str, str], name: str, parse: Callable[[str], _T]) -> _T | None: ...
@overload
def _read(annotations: Mapping[str, str], name: str, parse: Callable[[str], _T], default: _T) -> _T: ...
def _read(
    annotations: Mapping[str, str], name: str, parse: Callable[[str], _T], default: _T | None = None
) -> _T | None:
    text = annotations.get(name)
    if text is None:
        return default
    try:
        return parse(text.strip())
    except ValueError as error:
        raise ConfigError(f"{error}; got {text!r}", path=annotation_path(name)) from None


def annotation_path(name: str) -> str:
    """The path of one annotation below the pod: `metadata.annotations[sidecar.istio.io/inject]`."""
    return f"metadata.annotations[{name}]"


def read_bool(text: str) -> bool:
    """`"true"` or `"false"`.

    Raises:
        ValueError: it is neither.
    """
    if text not in {"true", "false"}:
        raise ValueError('write "true" or "false", in quotes')
    return text == "true"


def _proxy(text: str) -> str:
    return _one_of(PROXIES, text)


def _log_level(text: str) -> str:
    return _one_of(LOG_LEVELS, text)


def _one_of(choices: tuple[str, ...], text: str) -> str:
    if text not in choices:
        raise ValueError(f"choose one of {', '.join(choices)}")
    return text


def _quantity(text: str) -> str:
    if _QUANTITY.fullmatch(text) is None:
        raise ValueError("write a Kubernetes quantity, such as 100m or 128Mi")
    return text


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 5 and least <= int(text) <= _MAX_PROBE_VALUE):
            raise ValueError(f"write a whole number from {least} to {_MAX_PROBE_VALUE}")
        return int(text)

    return number


def _status_port(text: str) -> int:
    ports = _port_list(text)
    taken = OWN_PORTS - {names.PORT_APP_HEALTH}
    if len(ports) != 1 or int(ports[0]) in taken:
        raise ValueError(
            f"write one port that is not one of the sidecar's others ({', '.join(map(str, sorted(taken)))})"
        )
    return int(ports[0])


def _image(text: str) -> str:
    if _IMAGE.fullmatch(text) is None:
        raise ValueError("write the reference of an image, such as registry.example/pymesh-proxy:0.1.0")
    return text


def _port_list(text: str) -> tuple[str, ...]:
    ports = [part.strip() for part in text.split(",")] if text else []
    for port in ports:
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
            raise ValueError("write ports from 1 to 65535, separated by commas")
    return tuple(dict.fromkeys(str(int(port)) for port in ports))


def _ports_or_all(text: str) -> tuple[str, ...]:
    return ALL if text == "*" else _port_list(text)


def _range_list(text: str) -> tuple[str, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    try:
        return tuple(dict.fromkeys(str(ipaddress.IPv4Network(part)) for part in parts))
    except ValueError:
        raise ValueError("write IPv4 ranges such as 10.0.0.0/8, host bits zero, separated by commas") from None


def _ranges_or_all(text: str) -> tuple[str, ...]:
    return ALL if text == "*" else _range_list(text)
