"""Whether a mesh has caught up with itself: pilot knows every endpoint that is ready, every proxy what pilot knows.

Pods that are ready are not enough: for some milliseconds nobody else knows of them, and a first request would be
answered 503. Pure.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

Json = Mapping[str, Any]


def unsettled(
    observed: Iterable[Json], registry: Iterable[Json], revision: str, proxies: Collection[Json]
) -> list[str]:
    """What is still on its way, a sentence each; empty when nothing is.

    Args:
        observed: the objects that the runtime shows pilot.
        registry: pilot's `/debug/registryz`.
        revision: of pilot's newest world (`/debug/configz`): a proxy that was sent an older one may well have
            acknowledged all of that.
        proxies: pilot's `/debug/syncz`.
    """
    known = {endpoint["address"] for service in registry for port in service["ports"] for endpoint in port["endpoints"]}
    ready = {address for document in observed for address in _ready_addresses(document)}
    waiting = [f"pilot has not read yet that {address} is ready" for address in sorted(ready - known)]
    if waiting:
        return waiting
    waiting = [
        f"{proxy['proxy']} has not been told the newest yet" for proxy in proxies if proxy["revision"] != revision
    ]
    if waiting:
        return waiting
    return [
        f"{proxy['proxy']} has not acknowledged its {kind} yet"
        for proxy in proxies
        for kind, state in proxy["types"].items()
        if state["status"] == "STALE"
    ]


def _ready_addresses(document: Json) -> Iterable[str]:
    if document.get("kind") != "EndpointSlice":
        return
    for endpoint in document.get("endpoints") or ():
        if (endpoint.get("conditions") or {}).get("ready"):
            yield from endpoint.get("addresses") or ()
