"""Lists as kubectl prints them (meta.k8s.io Table): columns, cells and the objects' metadata."""

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.kinds import Kind

Cell = Callable[[Object], Any]


def table(kind: Kind, objects: Iterable[Object], meta: Object, include: str = "Metadata") -> Object:
    """The Table of some objects; `include` says what of each goes along: None, Metadata or Object."""
    columns = _columns(kind)
    rows = [
        {"cells": [cell(each) for _, _, cell in columns]} | _included(each, include)
        for each in objects
    ]  # fmt: skip
    names = [
        {"name": name, "type": kind_of, "format": "name" if name == "Name" else "", "description": name, "priority": 0}
        for name, kind_of, _ in columns
    ]
    return {
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": names, "rows": rows,
    }  # fmt: skip


def partial(found: Object) -> Object:
    """An object's metadata alone (meta.k8s.io PartialObjectMetadata)."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": found["metadata"]}


def _included(found: Object, include: str) -> Object:
    if include == "None":
        return {}
    return {"object": found if include == "Object" else partial(found)}


def _columns(kind: Kind) -> list[tuple[str, str, Cell]]:
    name: tuple[str, str, Cell] = ("Name", "string", lambda found: found["metadata"]["name"])
    age: tuple[str, str, Cell] = ("Age", "string", lambda found: _age(found["metadata"]["creationTimestamp"]))
    if kind.custom and kind.columns:
        own = [(column["name"], column["type"], _custom(column)) for column in kind.columns]
        return [name, *own]
    return [name, *_BUILTIN.get(kind.storage, []), age]


def _custom(column: Object) -> Cell:
    date = column["type"] == "date"

    def cell(found: Object) -> Any:
        values = at(found, column["jsonPath"])
        if not values:
            return None
        if date:
            return _age(values[0])
        return values[0] if isinstance(values[0], str | int | float) else msgspec.json.encode(values[0]).decode()

    return cell


_STEP = re.compile(
    r"""\.?(?P<name>[^.\[\]]+)|\[\?\(@\.(?P<key>[^=\s]+)\s*==\s*["'](?P<value>[^"']*)["']\)\]|\[(?P<index>\*|\d+)\]"""
)


def at(found: Any, path: str) -> list[Any]:
    """The values at a simple JSONPath: names, `[*]`, indices and `[?(@.type=="X")]`."""
    values = [found]
    for step in _STEP.finditer(path):
        if name := step["name"]:
            values = [each[name] for each in values if isinstance(each, dict) and name in each]
            continue
        items = [item for each in values if isinstance(each, list) for item in each]
        if key := step["key"]:
            values = [item for item in items if isinstance(item, dict) and item.get(key) == step["value"]]
        else:
            values = items if step["index"] == "*" else items[int(step["index"]) : int(step["index"]) + 1]
    return values


def _age(created: str) -> str:
    seconds = int(time.time() - datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def _ready(found: Object) -> str:
    statuses = found.get("status", {}).get("containerStatuses", ())
    return f"{sum(bool(each.get('ready')) for each in statuses)}/{len(found['spec'].get('containers', ()))}"


def _ports(found: Object) -> str:
    ports = found["spec"].get("ports") or ()
    return ",".join(f"{each['port']}/{each.get('protocol', 'TCP')}" for each in ports) or "<none>"


def _replicas(found: Object) -> str:
    return f"{found.get('status', {}).get('readyReplicas', 0)}/{found['spec'].get('replicas', 0)}"


_BUILTIN: dict[tuple[str, str], list[tuple[str, str, Cell]]] = {
    ("", "pods"): [
        ("Ready", "string", _ready),
        ("Status", "string", lambda found: found.get("status", {}).get("phase", "Unknown")),
        ("Restarts", "string", lambda found: str(
            sum(each.get("restartCount", 0) for each in found.get("status", {}).get("containerStatuses", ())))),
    ],
    ("", "namespaces"): [("Status", "string", lambda found: found.get("status", {}).get("phase", ""))],
    ("", "services"): [
        ("Type", "string", lambda found: found["spec"].get("type", "")),
        ("Cluster-IP", "string", lambda found: found["spec"].get("clusterIP") or "<none>"),
        ("External-IP", "string", lambda found: found["spec"].get("externalName") or "<none>"),
        ("Port(s)", "string", _ports),
    ],
    ("", "configmaps"): [("Data", "string", lambda found: len(found.get("data") or ()))],
    ("", "secrets"): [
        ("Type", "string", lambda found: found.get("type", "")),
        ("Data", "string", lambda found: len(found.get("data") or ())),
    ],
    ("apps", "deployments"): [("Ready", "string", _replicas)],
    ("apps", "statefulsets"): [("Ready", "string", _replicas)],
    ("coordination.k8s.io", "leases"): [
        ("Holder", "string", lambda found: found.get("spec", {}).get("holderIdentity", "")),
    ],
}  # fmt: skip
