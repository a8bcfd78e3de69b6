"""World + node → everything that one proxy is to know. Pure and deterministic."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from google.protobuf.message import Message

from pymesh import names
from pymesh.xds import types
from pymesh_controlplane.pilot import clusters, endpoints, listeners, routes
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.policies import rule_for, subset_of

# By type URL, then by resource name; both sorted.
Resources: TypeAlias = Mapping[str, Mapping[str, Message]]

SIDECAR: Final = "sidecar"


def resources_for(node: Node, world: World) -> Resources:
    """All listeners, route configurations, clusters and endpoint assignments of `node`.

    The keys of the outer mapping are the four type URLs (always present), those of the inner one the names under which
    the proxy asks for them. The same node and world give messages that are equal to the byte when they are serialized
    with `deterministic=True`. Every route configuration and endpoint assignment that a listener or a cluster here
    names is here too.

    A node that is no sidecar gets nothing yet: gateways (`router`) come with their listeners.
    """
    if node.kind != SIDECAR:
        return {types.CLUSTER: {}, types.ENDPOINT: {}, types.LISTENER: {}, types.ROUTE: {}}
    node = _with_labels(node, world)
    found_clusters = _clusters(node, world)
    found_listeners = [listeners.virtual_inbound(node, world), listeners.virtual_outbound(world)]
    return {
        types.CLUSTER: {cluster.name: cluster for cluster in found_clusters},
        types.ENDPOINT: _assignments(found_clusters, node, world),
        types.LISTENER: {listener.name: listener for listener in found_listeners},
        types.ROUTE: {str(port): routes.configuration(port, node, world) for port in routes.http_ports(world)},
    }


def _with_labels(node: Node, world: World) -> Node:
    """The node with the labels of its pod: as Kubernetes knows them, else as the proxy itself says."""
    for address in node.addresses:
        if address in world.workloads:
            return replace(node, labels=world.workloads[address].labels)
    return node


def _clusters(node: Node, world: World) -> list[cluster_pb2.Cluster]:
    found = clusters.everywhere()
    found += [clusters.inbound(port.number, port.protocol) for port in listeners.inbound_ports(node, world)]
    for service in world.services.values():
        found += clusters.outbound(service, node.namespace, world)
    return sorted(found, key=lambda cluster: cluster.name)


def _assignments(
    found: list[cluster_pb2.Cluster], node: Node, world: World
) -> dict[str, endpoint_pb2.ClusterLoadAssignment]:
    """The assignments that the EDS clusters among `found` ask for; two clusters may share one."""
    assignments: dict[str, endpoint_pb2.ClusterLoadAssignment] = {}
    for cluster in found:
        name = cluster.eds_cluster_config.service_name
        known_as = names.ClusterName.parse(name)
        if cluster.type != cluster_pb2.Cluster.EDS or known_as is None or name in assignments:
            continue
        service = world.services[known_as.host]
        port = service.port(known_as.port)
        if port is not None:
            subset = subset_of(rule_for(service, node.namespace, world), known_as.subset)
            assignments[name] = endpoints.assignment(name, endpoints.members(service, port, subset, world))
    return dict(sorted(assignments.items()))
