"""Whether a mesh has caught up with itself: the control plane has read what it is shown, every proxy has taken that.

Pods that are ready are not enough: for some milliseconds nobody else knows of them, and a first request would be
answered 503. Nor are proxies that have acknowledged everything, while pilot has not read what was just applied. Pure.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pymesh.resources.resource import Key
from pymesh_controlplane.local.store import file_name

Json = Mapping[str, Any]


def unread(reader: str, shown: Mapping[Key, str], config: Json) -> list[str]:
    """What `reader` has not read yet, a sentence each. What it has refused it has read.

    Args:
        reader: pilot, or the policy service.
        shown: digests of all that it is shown.
        config: its `/debug/configz`.
    """
    there = {Key(item["kind"], item["namespace"], item["name"]): item for item in config["resources"]}
    refused = {problem["resource"] for problem in config["problems"] if problem["severity"] == "error"}
    late = [
        f"{reader} has not read {key} yet, as it is now"
        for key, digest in shown.items()
        if (key not in there or there[key]["digest"] != digest) and str(key) not in refused
    ]
    # What people put into the folder themselves is in files of other names.
    gone = [key for key, item in there.items() if key not in shown and f"/{file_name(key)}:" in item["position"]]
    return late + [f"{reader} has not read yet that {key} is gone" for key in gone]


def untold(revision: str, pods: Iterable[str], proxies: Collection[Json]) -> list[str]:
    """Which proxies have not taken the newest yet, a sentence each.

    Args:
        revision: of pilot's newest world (`/debug/configz`): a proxy that was sent an older one may well have
            acknowledged all of that.
        pods: those with a proxy, as `NAME.NAMESPACE`.
        proxies: pilot's `/debug/syncz`.
    """
    connected = {proxy["proxy"] for proxy in proxies}
    away = [f"{pod} is not connected to pilot" for pod in pods if pod not in connected]
    waiting = away + [
        f"{proxy['proxy']} has not been told the newest yet" for proxy in proxies if proxy["revision"] != revision
    ]
    return waiting or [
        f"{proxy['proxy']} has not acknowledged its {kind} yet"
        for proxy in proxies
        for kind, state in proxy["types"].items()
        if state["status"] == "STALE"
    ]
