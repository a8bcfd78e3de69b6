"""Where the records of requests come from: the collector or, where there is none, the sidecars themselves."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.cli import journey
from pymesh_controlplane.cli.client import Absent
from pymesh_controlplane.cli.mesh import LocalMesh
from pymesh_controlplane.injector.containers import PROXY

# Seconds after the end of a request in which records of it may still come: proxies send every second.
FRESH: Final = 1.5
# Seconds to wait for what is missing of a request that has just ended, and between two looks.
PATIENCE: Final = 3.0
POLL: Final = 0.2


@dataclass(frozen=True, slots=True)
class Found:
    """The records of a request, and where they are from: `telemetry` or `sidecars`, and then why not the former."""

    records: Sequence[journey.Record]
    source: str = "telemetry"
    why: str = ""


def of_request(mesh: LocalMesh, request_id: str) -> Found:
    """The records of one request. What has just ended is waited for, for PATIENCE seconds at most.

    Raises:
        MeshError: the mesh does not run, or a sidecar does not answer as it should.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        found = _look(mesh, request_id)
        hops = journey.join(found.records)
        if _settled(hops, time.time()) or time.monotonic() > deadline:
            return found
        time.sleep(POLL)


def _settled(hops: list[journey.Hop], now: float) -> bool:
    """Whether nothing more will come: the request hangs together and has ended a while ago."""
    ends = [record.started + record.milliseconds / 1000 for record in journey.flatten(hops)]
    return bool(ends) and now - max(ends) > FRESH and not (journey.loose_ends(hops) and now - max(ends) < PATIENCE)


def _look(mesh: LocalMesh, request_id: str) -> Found:
    try:
        items = mesh.client.get(f"/telemetry/requests?id={quote(request_id, safe='')}")
    except Absent as error:
        return Found(of_sidecars(mesh, mesh.rows(), request_id), "sidecars", str(error))
    except MeshError as error:
        # It is away: what it knew is lost, and what the sidecars know is not. Without a supervisor this says so too.
        return Found(of_sidecars(mesh, mesh.rows(), request_id), "sidecars", str(error))
    return Found([journey.Record(item["pod"], item) for item in items])


def of_sidecars(mesh: LocalMesh, rows: Sequence[Mapping[str, Any]], request_id: str) -> list[journey.Record]:
    """What the proxies in the pods of `rows` (of `pymesh ps`) remember of a request, from their admin ports.

    Raises:
        MeshError: one does not answer as it should.
    """
    url = f"http://127.0.0.1:{names.PORT_ADMIN}/requests?id={quote(request_id, safe='')}"
    result = []
    for row in rows:
        if PROXY not in row["pids"]:
            continue
        pod, namespace = str(row["name"]), str(row["namespace"])
        text = mesh.run(pod, namespace, ["curl", "-sSf", "--max-time", "5", url], PROXY)
        try:
            fields = [{**item, "pod": pod, "namespace": namespace} for item in json.loads(text)]
        except (ValueError, TypeError) as error:
            raise MeshError(f"the sidecar of {pod} answers what is not a list of records: {error}") from None
        result += [journey.Record(pod, item) for item in fields]
    return result
