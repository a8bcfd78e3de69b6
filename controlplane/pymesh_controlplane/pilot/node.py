"""Who asks for configuration: a proxy, as its xDS node describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from envoy.config.core.v3 import base_pb2
from google.protobuf import json_format

from pymesh import names


@dataclass(frozen=True, slots=True)
class Node:
    """A proxy.

    Attributes:
        id: `sidecar~10.244.0.7~reviews-v1-0.default~default.svc.cluster.local`.
        kind: `sidecar` or `router` (a gateway).
        addresses: the pod's IP addresses.
        pod, namespace: the pod it stands in.
        service_account: the account it runs under, as it says itself; citadel attests it, pilot only describes with it.
        labels: the pod's labels.
        user_agent: `pymesh-proxy` or `envoy`.
        workload: what made the pod, as in the Deployment's name; may be empty.
    """

    id: str
    kind: str
    addresses: tuple[str, ...]
    pod: str
    namespace: str
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    user_agent: str = names.USER_AGENT
    workload: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is a pymesh-proxy, which knows more words than an Envoy."""
        return self.user_agent == names.USER_AGENT


def node_of(message: base_pb2.Node) -> Node:
    """The proxy behind the `node` of its first discovery request.

    Raises:
        ValueError: the node id is not of the form that the mesh gives its proxies, or the metadata has wrong types.
    """
    parsed = names.NodeId.parse(message.id)
    metadata = json_format.MessageToDict(message.metadata)
    labels = metadata.get("LABELS") or {}
    if not isinstance(labels, dict):
        raise ValueError(f"node {message.id!r}: metadata LABELS is not an object")
    addresses = metadata.get("INSTANCE_IPS") or []
    if isinstance(addresses, str):  # as Istio's agent writes them; ours is a list
        addresses = addresses.split(",")
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise ValueError(f"node {message.id!r}: metadata INSTANCE_IPS is neither text nor a list of texts")
    return Node(
        id=message.id,
        kind=parsed.kind,
        addresses=tuple(dict.fromkeys(address for address in (parsed.ip, *addresses) if address)),
        pod=parsed.pod,
        namespace=parsed.namespace,
        service_account=str(metadata.get("SERVICE_ACCOUNT") or ""),
        labels={str(key): str(value) for key, value in labels.items()},
        user_agent=message.user_agent_name,
        workload=str(metadata.get("WORKLOAD_NAME") or ""),
    )
