"""World → endpoint assignments: who answers for a cluster. Pure."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from pymesh import names
from pymesh.peer_metadata import peer_of, workload_metadata
from pymesh.resources.istio.destination_rule import Subset
from pymesh_controlplane.pilot.messages import ISTIO_METADATA, METADATA, TRANSPORT_MATCH, metadata, socket_address
from pymesh_controlplane.pilot.model import NOWHERE, Endpoint, Locality, Service, World

_CoreLocality = base_pb2.Locality

# The ready endpoints behind each port of a service, in the order of the ports.
Behind: TypeAlias = tuple[tuple[Endpoint, ...], ...]


def behind(service: Service, world: World) -> Behind:
    """Who answers for each port of `service`."""
    return tuple(world.endpoints.get((service.host, port.port), ()) for port in service.ports)


def members(everyone: Iterable[Endpoint], subset: Subset | None) -> list[Endpoint]:
    """Those with the subset's labels; without a subset all."""
    wanted: Mapping[str, str] = subset.labels if subset else {}
    return [endpoint for endpoint in everyone if wanted.items() <= endpoint.labels.items()]


def assignment(name: str, endpoints: Iterable[Endpoint]) -> endpoint_pb2.ClusterLoadAssignment:
    """The assignment of the cluster `name`, by locality. Without endpoints it is empty, but it is there.

    All localities have the same priority: until somebody asks for more, traffic is spread evenly over all endpoints.
    """
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    by_locality: dict[Locality, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_locality.setdefault(endpoint.locality, []).append(endpoint)
    for locality, members_there in sorted(by_locality.items()):
        group = message.endpoints.add(lb_endpoints=[_endpoint(endpoint) for endpoint in members_there])
        if locality != NOWHERE:
            group.locality.CopyFrom(_CoreLocality(region=locality[0], zone=locality[1], sub_zone=locality[2]))
            group.load_balancing_weight.value = sum(endpoint.weight for endpoint in members_there)
    return message


def _endpoint(endpoint: Endpoint) -> endpoint_components_pb2.LbEndpoint:
    message = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=socket_address(endpoint.address, endpoint.port)),
        load_balancing_weight=UInt32Value(value=endpoint.weight),
    )
    about = _about(endpoint)
    if endpoint.mesh:
        about[TRANSPORT_MATCH] = {"tlsMode": "istio"}
    if about:
        message.metadata.CopyFrom(metadata(about))
    return message


def _about(endpoint: Endpoint) -> dict[str, Mapping[str, str]]:
    """What telemetry says about the far end: Istio's five facts of it, and ours."""
    workload = endpoint.workload
    if workload is None:
        return {}
    peer = peer_of(workload.workload, workload.namespace, workload.labels, names.CLUSTER_ID)
    ours = {"pod": workload.name, "service_account": workload.service_account}
    for label in ("app", "version"):
        if workload.labels.get(label):
            ours[label] = workload.labels[label]
    return {ISTIO_METADATA: {"workload": workload_metadata(peer)}, METADATA: ours}
