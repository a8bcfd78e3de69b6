"""The columns of `pymesh get`, as those who know kubectl and istioctl expect them. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pymesh.errors import printable
from pymesh_controlplane.cli.output import age
from pymesh_controlplane.cli.readiness import is_ready

Object = Mapping[str, Any]
Column = tuple[str, Callable[[Object], str]]


def object_rows(
    found: Sequence[Object], kind: str, everything: Iterable[Object], now: float
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `found`, which are all of `kind`, or with an empty `kind` of any.

    Args:
        everything: the objects of the mesh, for what is said of one and known by others.
        now: Unix time, for ages: those of pods, since of the rest nobody keeps when it was made.
    """
    columns: tuple[Column, ...] = _COLUMNS.get(kind, ())
    if kind == "Pod":
        columns = (*columns, ("AGE", lambda item: _age(item, now)))
    elif kind == "Deployment":
        ready = _ready_pods(everything)
        columns = (("READY", lambda item: _pods_of(item, ready)), *columns)
    header = [*([] if kind else ["KIND"]), "NAMESPACE", "NAME", *(name for name, _ in columns)]
    return header, [
        [
            *([] if kind else [item["kind"]]),
            item["metadata"].get("namespace", "-"),
            item["metadata"]["name"],
            *(printable(value(item)) or "-" for _, value in columns),
        ]
        for item in found
    ]


def _age(item: Object, now: float) -> str:
    started = (item.get("status") or {}).get("startTime")
    return age(now - datetime.fromisoformat(started).timestamp()) if started else ""


def _ready_pods(everything: Iterable[Object]) -> Counter[tuple[str, str]]:
    """How many pods are ready, by namespace and name of their Deployment."""
    return Counter(
        (item["metadata"].get("namespace", ""), owner["name"])
        for item in everything
        if item["kind"] == "Pod" and is_ready(item)
        for owner in item["metadata"].get("ownerReferences") or []
    )


def _pods_of(item: Object, ready: Counter[tuple[str, str]]) -> str:
    metadata, wanted = item["metadata"], (item.get("spec") or {}).get("replicas", 1)
    return f"{ready[metadata.get('namespace', ''), metadata['name']]}/{wanted}"


def _at(*path: str) -> Callable[[Object], str]:
    """The field at `path`; lists with commas between."""

    def value(item: Object) -> str:
        found: Any = item
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):
            return ",".join(f"{name}={text}" for name, text in found.items())
        return ",".join(map(str, found)) if isinstance(found, list) else "" if found is None else str(found)

    return value


def _containers(item: Object) -> list[Object]:
    """Of a pod, those that are to run as long as it does: native sidecars among them, as kubectl counts."""
    status = item.get("status") or {}
    staying = [one["name"] for one in _specs(item, "initContainers") if one.get("restartPolicy") == "Always"]
    init = [one for one in status.get("initContainerStatuses") or [] if one["name"] in staying]
    return [*init, *(status.get("containerStatuses") or [])]


def _specs(item: Object, field: str) -> list[Object]:
    return list((item.get("spec") or {}).get(field) or [])


def _ready(item: Object) -> str:
    found = _containers(item)
    return f"{sum(bool(one['ready']) for one in found)}/{len(found)}"


def _restarts(item: Object) -> str:
    return str(sum(int(one["restartCount"]) for one in _containers(item)))


def _ports(item: Object) -> str:
    ports = (item.get("spec") or {}).get("ports") or []
    return ",".join(f"{port.get('port')}/{port.get('protocol') or 'TCP'}" for port in ports)


def _servers(item: Object) -> str:
    hosts = [host for server in (item.get("spec") or {}).get("servers") or [] for host in server.get("hosts") or []]
    return ",".join(dict.fromkeys(map(str, hosts)))


def _addresses(item: Object) -> str:
    """Where this machine reaches a gateway."""
    found = (item.get("status") or {}).get("addresses") or []
    return " ".join(f"{address['value']}->{address['port']}" for address in found)


def _endpoints(item: Object) -> str:
    return ",".join(address for one in item.get("endpoints") or [] for address in one.get("addresses") or [])


def _subsets(item: Object) -> str:
    return ",".join(str(subset.get("name")) for subset in (item.get("spec") or {}).get("subsets") or [])


def _issuers(item: Object) -> str:
    rules = (item.get("spec") or {}).get("jwtRules") or []
    return ",".join(str(rule.get("issuer", "")) for rule in rules)


def _limit(item: Object) -> str:
    spec = item.get("spec") or {}
    if item["kind"] == "ConcurrencyLimit":
        return f"{spec.get('max', '')} at once"
    return f"{spec.get('requests', '')} per {spec.get('per', '')}"


_COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "Pod": (
        ("READY", _ready),
        ("STATUS", _at("status", "phase")),
        ("RESTARTS", _restarts),
        ("IP", _at("status", "podIP")),
    ),
    "Service": (("TYPE", _at("spec", "type")), ("CLUSTER-IP", _at("spec", "clusterIP")), ("PORTS", _ports)),
    "Deployment": (("SELECTOR", _at("spec", "selector", "matchLabels")),),
    "EndpointSlice": (("ENDPOINTS", _endpoints),),
    "ConfigMap": (("DATA", lambda item: str(len(item.get("data") or {}))),),
    "Secret": (("TYPE", _at("type")), ("DATA", lambda item: str(len(item.get("data") or {})))),
    "VirtualService": (("GATEWAYS", _at("spec", "gateways")), ("HOSTS", _at("spec", "hosts"))),
    "DestinationRule": (("HOST", _at("spec", "host")), ("SUBSETS", _subsets)),
    "ServiceEntry": (
        ("HOSTS", _at("spec", "hosts")),
        ("LOCATION", _at("spec", "location")),
        ("RESOLUTION", _at("spec", "resolution")),
    ),
    "Gateway": (("SELECTOR", _at("spec", "selector")), ("HOSTS", _servers), ("ADDRESSES", _addresses)),
    "PeerAuthentication": (("MODE", _at("spec", "mtls", "mode")),),
    "AuthorizationPolicy": (("ACTION", lambda item: str((item.get("spec") or {}).get("action") or "ALLOW")),),
    "RequestAuthentication": (("ISSUERS", _issuers),),
    "RateLimit": (("LIMIT", _limit),),
    "ConcurrencyLimit": (("LIMIT", _limit),),
    "Check": (("FUNCTION", _at("spec", "function")),),
}
