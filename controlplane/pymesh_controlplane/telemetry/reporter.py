"""Who reports: the proxy at the other end of a stream, as far as it has proved who it is. Pure."""

from typing import NamedTuple

from envoy.config.core.v3 import base_pb2

from pymesh import names
from pymesh.errors import printable
from pymesh.identity import Identity
from pymesh.peer_metadata import Peer, peer_of_struct


class ForeignNodeError(ValueError):
    """A proxy describes itself as something else than what it has proved to be."""


class Reporter(NamedTuple):
    """A proxy that reports.

    Attributes:
        kind: `sidecar` or `router` (a gateway).
        pod: the pod that it stands in.
        peer: the workload, its namespace and its labels, as Istio's metrics name them.
        principal: the SPIFFE identity that it has proved; empty where no proof was asked for.
    """

    kind: str
    pod: str
    peer: Peer
    principal: str = ""


def reporter_of(node: base_pb2.Node, identity: Identity | None) -> Reporter:
    """The proxy behind the `identifier.node` of its first message.

    A certificate proves a namespace and a service account. Which pod and which workload of that account it is remains
    the proxy's own word, as it does in all of the mesh: whoever has the account's token can be any of them.

    Args:
        node: what it says of itself.
        identity: what it has proved; None where nobody has to prove anything (a test, a trusted socket).

    Raises:
        ForeignNodeError: what it says is not what it has proved.
        ValueError: what it says is not in the form of this mesh.
    """
    parsed = names.NodeId.parse(node.id)
    peer = peer_of_struct(node.metadata)
    said = {parsed.namespace, peer.namespace}
    account = node.metadata.fields["SERVICE_ACCOUNT"].string_value if "SERVICE_ACCOUNT" in node.metadata.fields else ""
    if identity is not None:
        if said != {identity.namespace}:
            places = " and ".join(sorted(map(printable, said)))
            raise ForeignNodeError(f"node {node.id} says that it is in {places}, and has proved to be {identity}")
        if account not in {"", identity.service_account}:
            raise ForeignNodeError(
                f"node {node.id} says that it runs under {printable(account[:64])}, and has proved to be {identity}"
            )
    return Reporter(parsed.kind, parsed.pod, peer, str(identity or ""))
