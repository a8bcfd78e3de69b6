"""Where the records of requests come from: the collector or, where there is none, the sidecars themselves."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pymesh.errors import MeshError
from pymesh_controlplane.cli import journey
from pymesh_controlplane.cli.target import Mesh
from pymesh_controlplane.wording import listed

# Sidecars that are named of those that do not answer.
_NAMED: Final = 3
# Seconds after the end of a request in which records of it may still come: proxies send every second.
FRESH: Final = 1.5
# Seconds to wait for what is missing of a request that has just ended, and between two looks.
PATIENCE: Final = 3.0
POLL: Final = 0.2
# Seconds to wait for somebody who says so: longer than proxies on a busy machine take to report.
LONG: Final = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """The records of a request, and where they are from: `telemetry` or `sidecars`, and then why not the former."""

    records: Sequence[journey.Record]
    source: str = "telemetry"
    why: str = ""


def of_request(mesh: Mesh, request_id: str, patience: float) -> Found:
    """The records of one request. What has just ended is waited for, for `patience` seconds at most.

    Raises:
        MeshError: the mesh does not run, or a sidecar does not answer as it should.
    """
    deadline = time.monotonic() + patience
    while True:
        found = _look(mesh, request_id)
        hops = journey.join(found.records)
        if _settled(hops, time.time(), patience) or time.monotonic() > deadline:
            return found
        time.sleep(POLL)


def _settled(hops: list[journey.Hop], now: float, patience: float) -> bool:
    """Whether nothing more will come: the request has ended a while ago, and hangs together or never will."""
    ends = [record.started + record.milliseconds / 1000 for record in journey.flatten(hops)]
    return bool(ends) and now - max(ends) > FRESH and not (journey.loose_ends(hops) and now - max(ends) < patience)


def _look(mesh: Mesh, request_id: str) -> Found:
    try:
        items = mesh.telemetry("requests", {"id": request_id})
    except MeshError as error:
        # There is none, or it is away: what it knew is lost, and what the sidecars know is not. Where no mesh answers
        # at all, asking them says so too.
        return of_sidecars(mesh, request_id, str(error))
    return Found([journey.Record(item["pod"], item) for item in items])


def of_sidecars(mesh: Mesh, request_id: str, why: str) -> Found:
    """What the proxies remember of a request, from their admin ports; `why` it is them who are asked.

    Raises:
        MeshError: one does not answer as it should.
    """
    answers = mesh.sidecars(f"/requests?id={quote(request_id, safe='')}")
    result = []
    for namespace, pod, items in answers.documents:
        try:
            fields = [{**item, "pod": pod, "namespace": namespace} for item in items]
        except TypeError as error:
            raise MeshError(f"the sidecar of {pod} answers what is not a list of records: {error}") from None
        result += [journey.Record(pod, item) for item in fields]
    reason = f": {answers.reason}" if answers.reason else ""
    silent = f"; no answer from {listed(answers.silent, _NAMED)}{reason}" if answers.silent else ""
    return Found(result, "sidecars", f"{why}{silent}")
