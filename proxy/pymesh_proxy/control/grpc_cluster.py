"""The proxy's own gRPC clients of the mesh's services: a channel to a cluster of the configuration in force.

What a request would get, these calls get: an endpoint of the cluster by its balancer, the mesh's certificate, the
peer's identity held against the accounts of the service, the cluster's connect timeout and counters. Only the protocol
differs, HTTP/2 by prior knowledge, or by ALPN `h2` where there is TLS.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from pymesh.grpc.status import Code, RpcError, Status
from pymesh_proxy.config.model import Cluster, Snapshot, TlsClient
from pymesh_proxy.control.channel import Channel, ClientLink, Stream
from pymesh_proxy.control.target import Target
from pymesh_proxy.errors import ProxyError
from pymesh_proxy.upstream.endpoint import Endpoint

_ALPN: Final = ("h2",)


class State(Protocol):
    """What a channel needs of a cluster's state (upstream.pool.ClusterState)."""

    def pick(self, original_destination: tuple[str, int] | None) -> Endpoint | None:
        """The endpoint for the next connection."""

    def transport(self, cluster: Cluster, endpoint: Endpoint) -> TlsClient | None:
        """TLS settings for `endpoint`."""


class Upstreams(Protocol):
    """What a channel needs of upstream.pool.Upstreams."""

    def state(self, cluster: Cluster) -> State:
        """The state of `cluster`."""

    def reserve(self, cluster: Cluster) -> bool:
        """Take a place for one more connection."""

    def release_place(self, cluster: Cluster) -> None:
        """Give a place back."""

    async def connect(
        self,
        cluster: Cluster,
        endpoint: Endpoint,
        factory: Callable[[], asyncio.Protocol],
        alpn: tuple[str, ...] | None = None,
    ) -> str:
        """Connect in a reserved place; the peer's identity."""


class Mesh(Protocol):
    """What a channel needs of the proxy it is in (runtime.Runtime)."""

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force."""

    @property
    def upstreams(self) -> Upstreams:
        """The proxy's upstream connections."""


class ClusterChannel:
    """A channel to the cluster called `cluster_name` in whatever configuration is in force when a call is made.

    One connection, made when a call needs it and made anew after it was lost, or when its endpoint is no longer one of
    the cluster's; then the calls that are open end where they are, and later ones go to the new place. A call that
    lasts asks `moved` now and then, and begins again.
    """

    def __init__(self, mesh: Mesh, cluster_name: str, authority: str = "") -> None:
        """`authority`: whom it calls; what the endpoint is called if that is empty."""
        self.cluster_name = cluster_name
        self._authority = authority
        self._mesh = mesh
        self._channel = Channel(Target(cluster_name), dial=self._dial)
        self._where: tuple[Endpoint, TlsClient | None] | None = None

    @property
    def moved(self) -> bool:
        """Whether the connection leads to where a new one would not: that is how its endpoint leaves the cluster."""
        if self._where is None:
            return False
        endpoint, tls = self._where
        cluster = self._mesh.snapshot.clusters.get(self.cluster_name)
        if cluster is None or not any(one is endpoint for one in cluster.endpoints):
            return True
        return self._mesh.upstreams.state(cluster).transport(cluster, endpoint) != tls

    async def unary(self, method: str, request: bytes, *, within: float) -> bytes:
        """The answer to `request`; see Channel.unary.

        Raises:
            RpcError: no cluster, endpoint or connection, any status but OK, no answer `within` seconds.
        """
        self._follow()
        return await self._channel.unary(method, request, within=within)

    def stream(self, method: str, *, within: float | None = None) -> AbstractAsyncContextManager[Stream]:
        """A call with messages both ways; see Channel.stream."""
        self._follow()
        return self._channel.stream(method, within=within)

    def renew(self) -> None:
        """Make the next call on a new connection, maybe to another endpoint; open calls end where they are."""
        self._channel.renew()
        self._where = None

    async def close(self) -> None:
        """End every call and the connection."""
        await self._channel.close()

    def _follow(self) -> None:
        if self.moved:
            self.renew()

    async def _dial(self) -> ClientLink:
        """A connection to an endpoint of the cluster.

        Raises:
            RpcError: UNAVAILABLE, with the reason.
        """
        upstreams = self._mesh.upstreams
        cluster = self._mesh.snapshot.clusters.get(self.cluster_name)
        if cluster is None:
            raise self._unavailable("there is no such cluster in the configuration in force")
        state = upstreams.state(cluster)
        endpoint = state.pick(None)
        if endpoint is None:
            raise self._unavailable("it has no endpoint")
        if not upstreams.reserve(cluster):
            raise self._unavailable(f"it has {cluster.limits.max_connections} connections, its limit")
        tls = state.transport(cluster, endpoint)
        label = f"{self.cluster_name} at {endpoint.address}"
        link = ClientLink(
            label,
            self._authority or (tls.sni if tls is not None and tls.sni else endpoint.hostname or endpoint.address),
            secure=tls is not None,
            lost=lambda: upstreams.release_place(cluster),
        )
        try:
            await upstreams.connect(cluster, endpoint, lambda: link, _ALPN)
        except ProxyError as error:
            raise self._unavailable(error.reason) from error
        if not link.speaks_http2:
            link.close("no HTTP/2")
            raise self._unavailable(f"{endpoint.address} does not speak HTTP/2 (ALPN h2)")
        self._where = endpoint, tls
        return link

    def _unavailable(self, why: str) -> RpcError:
        return RpcError(Status(Code.UNAVAILABLE, f"cluster {self.cluster_name}: {why}"))
