"""What is observed of pods, as Kubernetes objects for pilot and as rows for `pymesh ps`. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pymesh_controlplane.local.containers import ContainerStatus
from pymesh_controlplane.local.status import PodStatus

Object = dict[str, Any]


def pod_object(manifest: Mapping[str, Any], status: PodStatus, ip: str, created: float, uid: str) -> Object:
    """The Pod `manifest` with its status, and the uid that its tokens are bound to."""
    conditions = {
        "PodScheduled": True,
        "Initialized": status.initialised,
        "ContainersReady": status.ready,
        "Ready": status.ready,
    }
    ready: Object = {"reason": status.reason, "message": status.message} if status.message else {}
    return {
        **manifest,
        "metadata": {**manifest["metadata"], "uid": uid},
        "status": {
            "phase": status.phase,
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": _time(created),
            "conditions": [
                {"type": name, "status": str(holds)} | (ready if name == "Ready" and not holds else {})
                for name, holds in conditions.items()
            ],
            "initContainerStatuses": [_container_object(container) for container in status.init_containers],
            "containerStatuses": [_container_object(container) for container in status.containers],
        },
    }


def _container_object(status: ContainerStatus) -> Object:
    details: dict[str, Object] = {
        "waiting": {"reason": status.reason, "message": status.message},
        "running": {"startedAt": _time(status.since)},
        "terminated": {"reason": status.reason, "message": status.message, "exitCode": status.exit_code},
    }
    return {
        "name": status.name,
        "ready": status.ready,
        "started": status.started,
        "restartCount": status.restarts,
        "state": {status.state: details[status.state]},
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def row(
    namespace: str,
    name: str,
    owner: str,
    status: PodStatus,
    *,
    ip: str,
    created: float,
    host_ports: Mapping[str, int],
    labels: Mapping[str, str],
) -> Object:
    """One line of `pymesh ps`; `host_ports` are addresses of the machine and the container ports they lead to."""
    return {
        "namespace": namespace,
        "name": name,
        "owner": owner,
        "ready": sum(container.ready for container in status.lasting),
        "containers": len(status.lasting),
        "status": status.reason,
        "message": status.message,
        "restarts": status.restarts,
        "created": created,
        "ip": ip,
        "host_ports": dict(host_ports),
        "labels": dict(labels),
        "is_ready": status.ready or status.phase == "Succeeded",
        "container_names": [container.name for container in status.containers],
        "init_container_names": [container.name for container in status.init_containers],
        "pids": {container.name: container.pid for container in status.lasting if container.pid},
    }


def with_ways_in(document: Object, rows: Iterable[Object]) -> Object:
    """A Gateway with the machine's addresses that lead to its pods, as its status; anything else as it is."""
    if document["kind"] != "Gateway":
        return document
    wanted = (document.get("spec", {}).get("selector") or {}).items()
    found = [
        {"value": address, "pod": row["name"], "port": port}
        for row in rows
        for address, port in row["host_ports"].items()
        if wanted <= row["labels"].items()
    ]
    return {**document, "status": {"addresses": found}} if found else document


def blocked_row(namespace: str, name: str, owner: str, why: str) -> Object:
    """The line of a pod that cannot be made."""
    return {
        "namespace": namespace,
        "name": name,
        "owner": owner,
        "ready": 0,
        "containers": 0,
        "status": "Pending",
        "message": why,
        "restarts": 0,
        "created": 0.0,
        "ip": "",
        "host_ports": {},
        "labels": {},
        "is_ready": False,
        "container_names": [],
        "init_container_names": [],
        "pids": {},
    }


def waiting(wanted: Mapping[tuple[str, str], int], rows: Iterable[Object]) -> list[str]:
    """What the pods in `rows` still wait for; else which of the `wanted` numbers of pods, by owner, are not there."""
    ready = dict.fromkeys(wanted, 0)
    result = []
    for line in rows:
        owner = (line["namespace"], line["owner"])
        if not line["is_ready"]:
            message = f": {line['message']}" if line["message"] else ""
            result.append(f"{line['namespace']}/{line['name']} {line['status']}{message}")
        elif owner in ready:
            ready[owner] += 1
    if result:
        return result
    return [
        f"{namespace}/{name}: {ready[namespace, name]} of {replicas} pods are there"
        for (namespace, name), replicas in wanted.items()
        if ready[namespace, name] < replicas
    ]
