"""The static cluster that `ads_config` names: what of a cluster counts where it leads to the control plane.

The channel to the control plane (control/channel.py) is not the data path: it speaks to one address, in plaintext or
over TLS that trusts the roots in a file and expects one name. Anything more is refused, since it would be without
effect, or, worse, taken for a protection that is not there.
"""

from collections.abc import Iterator
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.xds.check import join, unpack

_SNI: Final = "sni"
_ROOTS: Final = "common_tls_context.validation_context.trusted_ca.filename"
_ALPN: Final = "common_tls_context.alpn_protocols"


def check_control_cluster(cluster: Cluster, path: str) -> None:
    """Refuse what the channel to the control plane would not do.

    Raises:
        ConfigError: with the path of the field.
    """
    count = sum(len(group.lb_endpoints) for group in cluster.load_assignment.endpoints)
    if count != 1:
        problem = f"the cluster for ADS needs exactly one endpoint; this one has {count}"
        raise ConfigError(problem, path=join(path, "load_assignment.endpoints"))
    if cluster.transport_socket_matches:
        problem = "the cluster for ADS takes a transport_socket only"
        raise ConfigError(problem, path=join(path, "transport_socket_matches"))
    if cluster.HasField("transport_socket"):
        _check_socket(cluster.transport_socket, join(path, "transport_socket.typed_config"))


def _check_socket(socket: TransportSocket, path: str) -> None:
    context = unpack(socket.typed_config, path)
    if isinstance(context, RawBuffer):
        return
    if not isinstance(context, UpstreamTlsContext):
        raise ConfigError("a cluster takes an UpstreamTlsContext or a RawBuffer", path=path)
    given = set(_leaves(context, ""))
    for name in (_ROOTS, _SNI):
        if name not in given:
            raise ConfigError("is required for ADS over TLS", path=join(path, name))
    if _ALPN in given and list(context.common_tls_context.alpn_protocols) != ["h2"]:
        raise ConfigError("the control plane speaks `h2`", path=join(path, _ALPN))
    for name in sorted(given - {_ROOTS, _SNI, _ALPN}):
        raise ConfigError("is not supported for ADS: only trusted_ca.filename and sni are", path=join(path, name))


def _leaves(message: Message, path: str) -> Iterator[str]:
    """Paths of the fields that are set, messages that hold others left out."""
    for field, value in message.ListFields():
        here = join(path, field.name)
        if isinstance(value, Message) and value.ListFields():
            yield from _leaves(value, here)
        else:
            yield here
