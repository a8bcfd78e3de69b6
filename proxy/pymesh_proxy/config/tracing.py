"""HttpConnectionManager.Tracing → Tracing."""

from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from pymesh.errors import ConfigError
from pymesh.xds.check import join, unpack
from pymesh_proxy.config.fields import grpc_cluster
from pymesh_proxy.config.model import Tracing
from pymesh_proxy.telemetry.tracing import Sampling


def tracing(message: HttpConnectionManager.Tracing, path: str) -> Tracing:
    """How requests are traced.

    Raises:
        ConfigError: no provider, another one than OpenTelemetry, or no cluster.
    """
    here = join(path, "provider")
    if not message.HasField("provider"):
        raise ConfigError("is required", path=here)
    here = join(here, "typed_config")
    config = unpack(message.provider.typed_config, here)
    if not isinstance(config, OpenTelemetryConfig):
        raise ConfigError("a provider of traces is an OpenTelemetryConfig", path=here)
    cluster = grpc_cluster(config.grpc_service, join(here, "grpc_service"))
    # Envoy's resolution: whole percents, and hundredths of one for what is decided by the request id.
    sampling = Sampling(
        client=int(_percent(message, "client_sampling", path)),
        random=int(_percent(message, "random_sampling", path) * 100),
        overall=int(_percent(message, "overall_sampling", path)),
    )
    return Tracing(cluster, config.service_name, sampling)


def _percent(message: HttpConnectionManager.Tracing, field: str, path: str) -> float:
    if not message.HasField(field):
        return 100.0
    value = float(getattr(message, field).value)
    if not 0 <= value <= 100:
        raise ConfigError("must be between 0 and 100", path=join(path, field))
    return value
