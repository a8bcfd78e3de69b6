"""World → what proxies report of the traffic that passes: to the collector, into a log, as spans. Pure.

It is put into listeners that are otherwise complete, into every filter chain alike, so that no kind of traffic goes
unseen because somebody forgot it. Real Envoys get the same; they just have fewer words.
"""

import json
from typing import Final, NamedTuple

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import config_source_pb2, substitution_format_string_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.trace.v3 import opentelemetry_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from pymesh import access_log_formats, names, peer_metadata, telemetry_tags
from pymesh.resources.mesh_config import MeshConfig
from pymesh.xds import types
from pymesh_controlplane.pilot import hosts
from pymesh_controlplane.pilot.messages import duration, grpc_service, network_filters, packed
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node

# The collector's Service, in the system namespace; its name is also that of the log there.
COLLECTOR: Final = "telemetry"
LOG_NAME: Final = "pymesh"
# A batch goes when it is so old (seconds: who asks for a journey does not want to wait longer), or so large (bytes: a
# hundred requests, so that a busy sidecar sends ten messages a second and not a hundred).
FLUSH_INTERVAL: Final = 1.0
FLUSH_BYTES: Final = 128 * 1024

FILE_LOG: Final = "envoy.access_loggers.file"
HTTP_LOG: Final = "envoy.access_loggers.http_grpc"
TCP_LOG: Final = "envoy.access_loggers.tcp_grpc"
TRACER: Final = "envoy.tracers.opentelemetry"

_Log = accesslog_pb2.AccessLog
_Manager = http_connection_manager_pb2.HttpConnectionManager
_Tcp = tcp_proxy_pb2.TcpProxy


class Tracing(NamedTuple):
    """Where spans go, how many of the requests that nobody traces yet get a trace (percent), and as whom.

    `service` is the `service.name` of the spans; empty leaves it to the proxy, which knows what it stands for.
    """

    cluster: str
    sampling: float
    service: str = ""


class Reporting(NamedTuple):
    """What proxies report.

    Attributes:
        collector: the cluster of the collector's access log service; empty if there is none.
        file: where they write their access log; empty: nowhere.
        encoding: TEXT or JSON.
        format: a text, or JSON text of an object; empty is Istio's.
        tracing: None if requests are not traced.
        envoy: whether the proxy is an Envoy, which has to be told to pass on who its callers say they are.
    """

    collector: str = ""
    file: str = ""
    encoding: str = "TEXT"
    format: str = ""
    tracing: Tracing | None = None
    envoy: bool = False


NOTHING: Final = Reporting()


def reporting(node: Node, world: World) -> Reporting:
    """What `node` reports."""
    mesh = world.mesh
    return Reporting(
        _cluster(world, names.service_host(COLLECTOR, world.root_namespace), names.PORT_MESH_GRPC),
        mesh.access_log_file,
        mesh.access_log_encoding,
        mesh.access_log_format,
        _tracing(node, mesh, world),
        not node.ours,
    )


def _tracing(node: Node, mesh: MeshConfig, world: World) -> Tracing | None:
    provider = mesh.tracer
    if provider is None:
        return None
    host = hosts.of_provider(provider, world)
    cluster = _cluster(world, host, provider.port)
    if not cluster:
        return None
    # A pymesh-proxy knows its canonical service, and so all of them can share their listeners.
    service = "" if node.ours else f"{node.workload}.{node.namespace}"
    return Tracing(cluster, mesh.default_config.tracing.sampling, service)


def _cluster(world: World, host: str, port: int) -> str:
    """The cluster of a port of a service; empty if there is no such port."""
    service = world.services.get(host)
    return names.outbound_cluster(port, host) if service is not None and service.port(port) else ""


def put_into(listener: listener_pb2.Listener, wanted: Reporting) -> None:
    """Let all traffic of `listener` be reported."""
    if wanted == NOTHING._replace(envoy=wanted.envoy):
        return
    logs = _logs(wanted)
    for item in network_filters(listener):
        _extend(item, wanted, logs)


class _Logs(NamedTuple):
    """The access logs of requests, and those of opaque connections."""

    http: tuple[_Log, ...]
    tcp: tuple[_Log, ...]


def _extend(item: listener_components_pb2.Filter, wanted: Reporting, logs: _Logs) -> None:
    if item.typed_config.type_url == types.HTTP_CONNECTION_MANAGER:
        manager = _Manager.FromString(item.typed_config.value)
        manager.access_log.extend(logs.http)
        if wanted.tracing is not None:
            _trace(manager, wanted.tracing)
        item.typed_config.CopyFrom(packed(manager))
    elif item.typed_config.type_url == types.TCP_PROXY:
        opaque = _Tcp.FromString(item.typed_config.value)
        opaque.access_log.extend(logs.tcp)
        item.typed_config.CopyFrom(packed(opaque))


# --- Access logs ------------------------------------------------------------------------------------------------------


def _logs(wanted: Reporting) -> _Logs:
    files: tuple[_Log, ...] = ()
    if wanted.file:
        config = file_pb2.FileAccessLog(path=wanted.file, log_format=_format(wanted.encoding, wanted.format))
        files = (_Log(name=FILE_LOG, typed_config=packed(config)),)
    if not wanted.collector:
        return _Logs(files, files)
    common = als_pb2.CommonGrpcAccessLogConfig(
        log_name=LOG_NAME,
        grpc_service=grpc_service(wanted.collector),
        transport_api_version=config_source_pb2.ApiVersion.V3,
        buffer_flush_interval=duration(FLUSH_INTERVAL),
    )
    common.buffer_size_bytes.value = FLUSH_BYTES
    http = als_pb2.HttpGrpcAccessLogConfig(common_config=common)
    tcp = als_pb2.TcpGrpcAccessLogConfig(common_config=common)
    if wanted.envoy:
        http.common_config.custom_tags.add(tag=telemetry_tags.PEER_METADATA).request_header.name = peer_metadata.HEADER
    return _Logs(
        (*files, _Log(name=HTTP_LOG, typed_config=packed(http))),
        (*files, _Log(name=TCP_LOG, typed_config=packed(tcp))),
    )


def _format(encoding: str, written: str) -> substitution_format_string_pb2.SubstitutionFormatString:
    """The format as it is written, or Istio's. A text ends its line: what Istio's users write need not say so."""
    found = substitution_format_string_pb2.SubstitutionFormatString()
    if encoding == "JSON":
        found.json_format.update(json.loads(written) if written else access_log_formats.ISTIO_JSON_FORMAT)
    else:
        text = written or access_log_formats.ISTIO_TEXT_FORMAT
        found.text_format_source.inline_string = text if text.endswith("\n") else f"{text}\n"
    return found


# --- Tracing ----------------------------------------------------------------------------------------------------------


def _trace(manager: _Manager, wanted: Tracing) -> None:
    """As Istio has it: who asks for a trace gets one, and of the others a share does."""
    tracing = manager.tracing
    tracing.client_sampling.value = tracing.overall_sampling.value = 100.0
    tracing.random_sampling.value = wanted.sampling
    service = grpc_service(wanted.cluster)
    config = opentelemetry_pb2.OpenTelemetryConfig(grpc_service=service, service_name=wanted.service)
    tracing.provider.name = TRACER
    tracing.provider.typed_config.CopyFrom(packed(config))
