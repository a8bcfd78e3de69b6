"""What `pymesh status` and the debug pages tell about the proxies and the configuration. Pure: values in, JSON out."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, TypeAlias

from pymesh_controlplane.pilot.away import Away
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.server import Connection, short_name
from pymesh_controlplane.pilot.session import PUSH_ORDER, Session
from pymesh_controlplane.pilot.subscription import Subscription

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
# From seconds of the server's clock to a time of day.
TimeOf: TypeAlias = Callable[[float], datetime]

# Names of resources that are too large, in the text of one error.
MAX_NAMED: Final = 8


def syncz(connections: Iterable[Connection], time_of: TimeOf) -> list[Json]:
    """Per proxy, who it is and, per type, whether it has taken what it was sent.

    The status of a type is SYNCED, STALE (an update is under way or about to be), NACKED (the proxy refused the last
    one, or would refuse it as too large and was not sent it, and `error` says why; one that was since taken back leaves
    only the text) or NOT SENT (it does not ask for the
    type). `revision` is the one of the world that all this is about: until it is pilot's newest, SYNCED is old news.
    """
    return [
        {
            **_proxy(connection, time_of),
            "revision": connection.revision,
            "types": {short_name(kind): _type(connection.session, kind, time_of) for kind in PUSH_ORDER},
        }
        for connection in connections
    ]


def connections_of(connections: Iterable[Connection], time_of: TimeOf) -> list[Json]:
    """The proxies that are connected."""
    return [_proxy(connection, time_of) for connection in connections]


def configz(world: World | None) -> dict[str, Json]:
    """The resources in force, and what was refused or looks wrong."""
    if world is None:
        return {"revision": "", "resources": [], "problems": []}
    return {
        "revision": world.revision,
        "resources": [
            {
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "api_version": resource.api_version,
                "digest": resource.digest,
                "position": str(resource.positions.at("")),
            }
            for key, resource in world.resources.items()
        ],
        "problems": [dict(problem.as_json()) for problem in world.problems],
    }


def awayz(away: Mapping[Away, float], time_of: TimeOf) -> list[Json]:
    """The mesh's own services that are away: since when, why, what that means meanwhile, and what to do."""
    return [
        {
            "service": item.service,
            "since": _iso(since, time_of),
            "why": item.why,
            "means": item.means,
            "remedy": item.remedy,
            "text": f"{item.service} is away since {_iso(since, time_of)}: {item.why}; meanwhile {item.means} "
            f"({item.remedy})",
        }
        for item, since in away.items()
    ]


def registryz(world: World | None) -> list[Json]:
    """The services, their ports and the endpoints behind each."""
    if world is None:
        return []
    return [
        {
            "host": service.host,
            "namespace": service.namespace,
            "addresses": list(service.addresses),
            "resolution": service.resolution.value,
            "external": service.external,
            "accounts": list(service.accounts),
            "ports": [
                {
                    "name": port.name,
                    "port": port.port,
                    "protocol": port.protocol.value,
                    "endpoints": [
                        {
                            "address": endpoint.address,
                            "port": endpoint.port,
                            "mesh": endpoint.mesh,
                            "workload": endpoint.workload.name if endpoint.workload else "",
                        }
                        for endpoint in world.endpoints.get((service.host, port.port), ())
                    ],
                }
                for port in service.ports
            ],
        }
        for service in world.services.values()
    ]


def _proxy(connection: Connection, time_of: TimeOf) -> dict[str, Json]:
    node = connection.node
    return {
        "proxy": f"{node.pod}.{node.namespace}",
        "node": node.id,
        "user_agent": node.user_agent,
        "address": connection.origin.address,
        "identity": str(connection.origin.identity or ""),
        "protocol": "delta" if connection.session.delta else "sotw",
        "connected_since": _iso(connection.since, time_of),
    }


def _type(session: Session, type_url: str, time_of: TimeOf) -> Json:
    subscription = session.subscriptions.get(type_url)
    if subscription is None:
        return {"status": "NOT SENT"}
    return {
        "status": _status(session, subscription),
        "version": subscription.version,
        "acked_version": subscription.acked_version,
        "resources": len(subscription.accepted),
        "last_sent": _iso(subscription.sent_at, time_of),
        "last_ack": _iso(subscription.acked_at, time_of),
        "last_nack": _iso(subscription.rejected_at, time_of),
        "error": _error(session, subscription),
    }


def _status(session: Session, subscription: Subscription) -> str:
    if session.left_out.get(subscription.type_url):
        return "NACKED"
    if session.synced(subscription.type_url):
        return "SYNCED"
    return "NACKED" if subscription.error else "STALE"


def _error(session: Session, subscription: Subscription) -> str:
    """Why the proxy has not the newest."""
    names = sorted(session.left_out.get(subscription.type_url, ()))
    if not names:
        return subscription.error
    said = [subscription.error] if subscription.error else []
    sentence = f"too large to be sent: {', '.join(names[:MAX_NAMED])}"
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return "; ".join([*said, sentence + more])


def _iso(seconds: float | None, time_of: TimeOf) -> str | None:
    return None if seconds is None else time_of(seconds).isoformat(timespec="milliseconds")
