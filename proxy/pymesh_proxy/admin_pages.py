"""What the admin, metrics and readiness ports answer: views of the running proxy, and a few switches."""

import gc
import logging
import resource
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Final

from pymesh.steps import Steps
from pymesh_proxy.admin import Answer, Page, Query, as_json, as_json_in_steps, help_page, text
from pymesh_proxy.telemetry.exposition import rendering
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.telemetry.upstream_metrics import UpstreamMetrics

if TYPE_CHECKING:
    from pymesh_proxy.app import Proxy

_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
_LOCALITY: Final = ("region", "zone", "sub_zone")
_LEVELS: Final = ("debug", "info", "warning", "error")


def admin_pages(proxy: "Proxy") -> Mapping[str, Page]:
    """The admin interface, by Envoy's paths where Envoy has them."""
    pages: dict[str, Page] = {}
    pages |= {
        "/": help_page(pages),
        "/help": help_page(pages),
        "/config_dump": Page(lambda _: proxy.scrapes.take(config_dump(proxy)), "configuration in force, as received"),
        "/clusters": Page(lambda query: _clusters(proxy, query), "clusters, endpoints, health (?format=json)"),
        "/listeners": Page(lambda query: _listeners(proxy, query), "listening sockets (?format=json)"),
        "/requests": Page(lambda query: _requests(proxy, query), "the last requests (?id=X-REQUEST-ID, ?limit=N)"),
        "/connections": Page(lambda _: text(f"{len(proxy.runtime.connections)}"), "downstream connections open now"),
        "/certs": Page(lambda _: as_json(_certificates(proxy)), "certificates in use, without keys"),
        "/stats": Page(lambda _: _prometheus(proxy), "counters"),
        "/stats/prometheus": Page(lambda _: _prometheus(proxy), "counters, for Prometheus"),
        "/server_info": Page(lambda _: as_json(_server_info(proxy)), "version, state, uptime, node"),
        "/memory": Page(lambda _: as_json(_memory()), "memory of this process"),
        "/ready": Page(lambda _: _ready(proxy, "LIVE"), "200 once traffic may come, else 503 and what is awaited"),
        "/logging": Page(_logging, "log levels; ?level=debug sets all, ?LOGGER=LEVEL one", changes=True),
        "/drain_listeners": Page(lambda _: _drain(proxy), "answer with connection: close from now on", changes=True),
        "/quitquitquit": Page(lambda _: _quit(proxy), "finish what is in flight and exit", changes=True),
    }
    return pages


def metrics_pages(proxy: "Proxy") -> Mapping[str, Page]:
    """The port that Prometheus scrapes."""
    return {"/stats/prometheus": Page(lambda _: _prometheus(proxy), "counters, for Prometheus")}


def readiness_pages(proxy: "Proxy") -> Mapping[str, Page]:
    """The port that kubelet probes."""
    return {
        "/healthz/ready": Page(lambda _: _ready(proxy, "ready"), "200 when ready"),
        "/healthz/live": Page(lambda _: text("live\n"), "200 from a process that still answers"),
    }


def record_as_json(record: RequestRecord) -> dict[str, object]:
    """One request for `/requests`: names as in RequestRecord, times in milliseconds from the request's start."""

    def at(moment: float) -> float | None:
        return round((moment - record.t_start) * 1e6) / 1000 if moment else None

    facts = record.facts
    return {
        "request_id": record.request_id,
        "started": record.wall,
        "direction": facts.direction,
        "protocol": record.protocol,
        "method": record.method,
        "authority": record.authority,
        "path": record.path,
        "downstream_remote": facts.remote,
        "downstream_local": facts.local,
        "original_destination": facts.original,
        "tls": facts.tls,
        "sni": facts.sni,
        "peer": facts.peer,
        "own": facts.own,
        "virtual_host": record.virtual_host,
        "route": record.route,
        "route_source": record.route_source,
        "cluster": record.cluster,
        "endpoint": record.endpoint,
        "endpoint_labels": dict(record.endpoint_labels),
        "upstream_local": record.upstream_local,
        "upstream_peer": record.upstream_peer,
        "source": record.source._asdict(),
        "destination": record.destination._asdict(),
        "service": record.service._asdict(),
        "security": record.security,
        "attempts": record.attempts,
        "reused": record.reused,
        "status": record.status,
        "flag": record.flags,
        "details": record.details,
        "bytes_received": record.bytes_received,
        "bytes_sent": record.bytes_sent,
        "times_ms": {
            "filtered": at(record.t_filtered),
            "sent": at(record.t_connected),
            "first_byte": at(record.t_first_byte),
            "end": at(record.t_end),
        },
        **_trace(record),
        "notes": dict(record.notes),
    }


def _trace(record: RequestRecord) -> dict[str, object]:
    span = record.span
    if span is None:
        return {"trace_id": "", "span_id": "", "parent_span_id": "", "sampled": False}
    keys = ("trace_id", "span_id", "parent_span_id", "sampled")
    return {key: getattr(span, key) for key in keys}


def _requests(proxy: "Proxy", query: Query) -> Answer:
    wanted, limit = query.get("id"), int(query.get("limit", "100"))
    if limit < 1:
        raise ValueError(f"limit={limit}: at least 1")
    found = [record for record in proxy.runtime.recent if wanted is None or record.request_id == wanted]
    return as_json([record_as_json(record) for record in found[-limit:]])


def _clusters(proxy: "Proxy", query: Query) -> Answer:
    rows = [
        {
            "cluster": cluster.name,
            "type": cluster.discovery.value,
            "service": cluster.service._asdict(),
            "endpoints": [
                {
                    "address": endpoint.address,
                    "healthy": endpoint.healthy,
                    "health_flags": endpoint.health_flags,
                    "priority": endpoint.priority,
                    "locality": endpoint.locality,
                    "weight": endpoint.weight,
                    "active": endpoint.active,
                    "idle": len(endpoint.idle),
                    "labels": dict(endpoint.labels),
                }
                for endpoint in proxy.runtime.upstreams.endpoints(cluster)
            ],
        }
        for cluster in proxy.runtime.snapshot.clusters.values()
    ]
    if query.get("format") == "json":
        return as_json(rows)
    lines = []
    for cluster in proxy.runtime.snapshot.clusters.values():
        lines.append(f"{cluster.name}::type::{cluster.discovery.value}")
        for endpoint in proxy.runtime.upstreams.endpoints(cluster):
            prefix = f"{cluster.name}::{endpoint.address}"
            lines.append(f"{prefix}::health_flags::{endpoint.health_flags}")
            lines.append(f"{prefix}::rq_active::{endpoint.active}")
            lines.append(f"{prefix}::cx_idle::{len(endpoint.idle)}")
            lines.append(f"{prefix}::weight::{endpoint.weight}")
            lines += [f"{prefix}::{key}::{value}" for key, value in zip(_LOCALITY, endpoint.locality, strict=True)]
            lines.append(f"{prefix}::priority::{endpoint.priority}")
    return text("\n".join(lines))


def _listeners(proxy: "Proxy", query: Query) -> Answer:
    rows = [{"name": name, "address": address} for name, address in proxy.addresses()]
    if query.get("format") == "json":
        return as_json(rows)
    return text("\n".join(f"{row['name']}::{row['address']}" for row in rows))


def _certificates(proxy: "Proxy") -> list[dict[str, object]]:
    from pymesh_proxy.control.secrets import Certificate

    rows: list[dict[str, object]] = []
    for name in proxy.secrets.names():
        secret = proxy.secrets.get(name)
        row: dict[str, object] = {"name": name, "generation": proxy.secrets.generation(name)}
        if isinstance(secret, Certificate):
            row |= {"uri": secret.uri, "serial": secret.serial}
            row |= {"not_before": secret.not_before, "not_after": secret.not_after}
        rows.append(row)
    return rows


async def _prometheus(proxy: "Proxy") -> Answer:
    return Answer(await proxy.scrapes.take(metrics(proxy)), content_type=_PROMETHEUS)


def metrics(proxy: "Proxy") -> Steps[bytes]:
    """What /stats/prometheus says, in steps."""
    proxy.update_gauges()
    runtime = proxy.runtime
    health = UpstreamMetrics(lambda: runtime.upstreams.health(runtime.snapshot.clusters))
    text = yield from rendering((runtime.stats, runtime.reporters, runtime.loop_meter, health))
    return text + (yield from runtime.istio.writing()).encode()


def config_dump(proxy: "Proxy") -> Steps[Answer]:
    """What /config_dump says, in steps."""
    return (yield from as_json_in_steps((yield from proxy.configuration.dumping())))


def _server_info(proxy: "Proxy") -> dict[str, object]:
    # Loads the parser of e-mails; few ask.
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version("pymesh-proxy")
    except PackageNotFoundError:
        release = "unknown"
    waiting = proxy.waiting_for()
    return {
        "version": f"pymesh-proxy/{release}",
        "state": "DRAINING" if proxy.runtime.draining else "PRE_INITIALIZING" if waiting else "LIVE",
        "waiting_for": waiting,
        "uptime_seconds": round(monotonic() - proxy.started),
        "node": "" if proxy.control is None else proxy.control.node.id,
        "snapshot": proxy.runtime.snapshot.version,
    }


def _memory() -> dict[str, int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"max_rss_kib": usage.ru_maxrss, "gc_frozen_objects": gc.get_freeze_count()}


def _ready(proxy: "Proxy", word: str) -> Answer:
    waiting = proxy.waiting_for()
    return text(waiting, 503) if waiting else text(word)


def _logging(query: Query) -> Answer:
    for name, level in query.items():
        if level.lower() not in _LEVELS:
            raise ValueError(f"unknown level {level!r}; known are {', '.join(_LEVELS)}")
        logging.getLogger(None if name == "level" else name).setLevel(level.upper())
    root = logging.getLogger()
    loggers = [
        root,
        *(logging.getLogger(name) for name in sorted(root.manager.loggerDict) if name.startswith("pymesh")),
    ]
    return text("\n".join(f"{item.name}: {logging.getLevelName(item.getEffectiveLevel()).lower()}" for item in loggers))


def _drain(proxy: "Proxy") -> Answer:
    proxy.runtime.drain()
    return text("OK")


def _quit(proxy: "Proxy") -> Answer:
    proxy.stop()
    return text("OK")
