"""The control connection of one proxy, put together: channel, ADS client, certificate client, SDS."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Final

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.config.core.v3.config_source_pb2 import ApiConfigSource
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext

from pymesh.errors import ConfigError, MeshError
from pymesh.names import CLUSTER_ID, POD_LABELS_PATH, SDS_SOCKET_PATH, USER_AGENT, NodeId
from pymesh.xds.check import unpack
from pymesh_proxy.control.ads import Consumer
from pymesh_proxy.control.agent import AgentOptions
from pymesh_proxy.control.certificates import CertificateClient
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node, node_from_environment
from pymesh_proxy.control.pace import Pace
from pymesh_proxy.control.resources import interest_of
from pymesh_proxy.control.roots import RootsClient, TrustedRoots
from pymesh_proxy.control.sds import SdsServer
from pymesh_proxy.control.secrets import SecretStore
from pymesh_proxy.control.target import ServerTls, Target, bearer_token
from pymesh_proxy.control.xds import XdsClient, node_message
from pymesh_proxy.options import Options

_LABELS_FILE: Final = Path(POD_LABELS_PATH)


class ControlPlane:
    """What keeps a proxy configured and certified. `certificates` and `sds` are None where nobody asked for them.

    Attributes:
        node: who the proxy is; `introduction`: how it says so.
    """

    def __init__(
        self,
        node: Node,
        introduction: NodeMessage,
        xds: XdsClient,
        certificates: CertificateClient | None,
        sds: SdsServer | None,
        *,
        roots: RootsClient | None = None,
    ) -> None:
        self.node = node
        self.introduction = introduction
        self.xds = xds
        self.certificates = certificates
        self.sds = sds
        self._roots = roots

    @property
    def waiting_for(self) -> str:
        """What is missing before the proxy can carry traffic, as sentences; empty when nothing is."""
        parts = [self.xds.waiting_for, "" if self.certificates is None else self.certificates.waiting_for]
        return "; ".join(part for part in parts if part)

    async def run(self) -> None:
        """Keep everything up to date; ends only by cancellation."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.xds.run())
            if self.certificates is not None:
                group.create_task(self.certificates.run())
            if self._roots is not None:
                group.create_task(self._roots.run())
            if self.sds is not None:
                group.create_task(self.sds.run())


def control_plane(
    options: Options, bootstrap: Bootstrap | None, secrets: SecretStore, consumer: Consumer, pace: Pace
) -> ControlPlane | None:
    """The control plane that the options or the bootstrap ask for; None where the configuration is all static.

    Raises:
        ConfigError: the bootstrap's ADS cannot be reached the way it is written, or the environment lacks the pod.
    """
    rng = random.SystemRandom()
    if options.discovery is not None:
        node = node_from_environment(os.environ, _LABELS_FILE, kind="router" if options.gateway else "sidecar")
        roots = TrustedRoots(secrets, options.root_cert)
        channel = Channel(discovery_target(options, roots.pushed), metadata=bearer_token(options.token_file))
        certificates = CertificateClient(channel, node, secrets, roots=roots, rng=rng, clock=time)
        following = RootsClient(channel, node, secrets, roots, rng=rng)
        sds = None if options.sds_socket is None else SdsServer(secrets, options.sds_socket)
        introduction = node_message(node)
        xds = XdsClient(channel, introduction, consumer, delta=True, rng=rng, pace=pace)
        return ControlPlane(node, introduction, xds, certificates, sds, roots=following)
    if bootstrap is None or not bootstrap.dynamic_resources.HasField("ads_config"):
        return None
    ads = bootstrap.dynamic_resources.ads_config
    channel = Channel(ads_target(bootstrap, ads))
    delta = ads.api_type == ApiConfigSource.DELTA_GRPC
    introduction = introduction_in(bootstrap)
    interest = interest_of(bootstrap)
    xds = XdsClient(channel, introduction, consumer, delta=delta, rng=rng, pace=pace, interest=interest)
    return ControlPlane(node_in(bootstrap), introduction, xds, None, None)


def discovery_target(options: Options, more_roots: Callable[[], bytes] = bytes) -> Target:
    """Where `--discovery` leads: gRPC over TLS, known by the mesh's roots: those of the file, and `more_roots`."""
    if options.discovery is None:
        raise MeshError("no control plane named: --discovery HOST:PORT")
    host, port = options.discovery
    return Target(host, port, tls=ServerTls(options.root_cert, host, more_roots))


def agent_options(options: Options) -> AgentOptions:
    """What `--agent` runs with."""
    if options.envoy_bootstrap is None:
        raise MeshError("--agent needs --envoy-bootstrap FILE, the place for what Envoy is to be started with")
    node = node_from_environment(os.environ, _LABELS_FILE)
    return AgentOptions(
        node=node,
        discovery=discovery_target(options),
        bootstrap=options.envoy_bootstrap,
        envoy=options.envoy_command,
        sds_socket=options.sds_socket or Path(SDS_SOCKET_PATH),
        token_file=options.token_file,
        roots_file=options.root_cert,
        admin_port=options.admin[1],
    )


def ads_target(bootstrap: Bootstrap, ads: ApiConfigSource) -> Target:
    """The address behind the cluster that `ads_config` names.

    Raises:
        ConfigError: there is no such cluster, or it has no address of its own.
    """
    path = "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name"
    if not ads.grpc_services or not ads.grpc_services[0].envoy_grpc.cluster_name:
        raise ConfigError("ADS needs one gRPC service that names a static cluster", path=path)
    name = ads.grpc_services[0].envoy_grpc.cluster_name
    cluster = next((item for item in bootstrap.static_resources.clusters if item.name == name), None)
    if cluster is None:
        raise ConfigError(f"there is no static cluster {name!r}", path=path)
    return _cluster_target(cluster)


def _cluster_target(cluster: Cluster) -> Target:
    """The one endpoint; that there is one, and nothing that would be passed over, see config/control_cluster.py."""
    for group in cluster.load_assignment.endpoints:
        for member in group.lb_endpoints:
            address = member.endpoint.address.socket_address
            return Target(address.address, address.port_value, tls=_server_tls(cluster))
    raise ConfigError("the cluster for ADS has no endpoint", resource=f"cluster {cluster.name}")


def _server_tls(cluster: Cluster) -> ServerTls | None:
    """How to know the control plane; None is plaintext, as the bootstrap says."""
    if not cluster.HasField("transport_socket"):
        return None
    context = unpack(cluster.transport_socket.typed_config, "transport_socket.typed_config")
    if not isinstance(context, UpstreamTlsContext):
        return None
    return ServerTls(Path(context.common_tls_context.validation_context.trusted_ca.filename), context.sni)


def introduction_in(bootstrap: Bootstrap) -> NodeMessage:
    """The node just as the bootstrap writes it, metadata and locality, too; but who we are where it does not say."""
    introduction = NodeMessage()
    introduction.CopyFrom(bootstrap.node)
    introduction.user_agent_name = introduction.user_agent_name or USER_AGENT
    return introduction


def node_in(bootstrap: Bootstrap) -> Node:
    """Who the proxy is by the bootstrap's node: what its metadata say, by Istio's names, and else its id and cluster.

    An id that is not of Istio's form is the pod's name.
    """
    node = bootstrap.node
    fields = node.metadata.fields
    try:
        by_id = NodeId.parse(node.id)
    except ValueError:
        by_id = NodeId("sidecar", "", node.id, "default")

    def said(name: str, otherwise: str) -> str:
        return fields[name].string_value or otherwise if name in fields else otherwise

    labels = fields["LABELS"].struct_value.fields if "LABELS" in fields else {}
    return Node(
        kind=by_id.kind,
        pod=said("NAME", by_id.pod),
        namespace=said("NAMESPACE", by_id.namespace),
        ip=by_id.ip,
        service_account=said("SERVICE_ACCOUNT", "default"),
        workload=said("WORKLOAD_NAME", node.cluster.partition(".")[0] or by_id.pod),
        cluster_id=said("CLUSTER_ID", CLUSTER_ID),
        labels={name: value.string_value for name, value in labels.items()},
    )
