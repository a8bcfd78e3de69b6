"""The mesh's roots, pushed to whoever follows them; and what each follower reports that it trusts and shows.

It is Envoy's SDS (`SecretDiscoveryService/StreamSecrets`) for the one secret `ROOTCA`. A follower names the version
that it has in force (`version_info`), also in its first request after a restart of either side; and in the node's
metadata `CERTIFICATE_ROOT` the root that its own certificate leads to, again whenever that changes. A rotation rests on
both (`rotation`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc
import grpc.aio
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.message import DecodeError

from pymesh import names
from pymesh.errors import printable
from pymesh.xds.types import SECRET
from pymesh_controlplane.citadel.attestation import AttestationUnavailableError, Caller, UnauthenticatedError
from pymesh_controlplane.citadel.report import Holder, version_of
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.tasks import until_first_ends

log = logging.getLogger("pymesh.citadel")

# Characters of what a follower says: a fingerprint, a version, and why it refuses one.
MAX_SAID: Final = 64
MAX_PROBLEM: Final = 300

ServerContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Authenticate: TypeAlias = Callable[[ServerContext], Awaitable[Caller]]


@dataclass(slots=True, eq=False)
class _Follower:
    """One stream.

    Attributes:
        pod, trusts, leaf, problem: see Holder.
        sent: the version that was sent last; asked: whether it has asked for the roots yet.
    """

    pod: str
    trusts: str = ""
    leaf: str = ""
    problem: str = ""
    sent: str = ""
    asked: bool = False


class Bundles:
    """Serves the roots of `trust` to callers that have proved, by a token, of which pod they are."""

    def __init__(self, trust: Trust, authenticate: Authenticate, metrics: Metrics) -> None:
        self._trust = trust
        self._authenticate = authenticate
        self._metrics = metrics
        self._followers: dict[_Follower, None] = {}

    def holders(self) -> list[Holder]:
        """The workloads that follow; of two streams of a pod the later one counts."""
        latest = {item.pod: item for item in self._followers if item.asked}
        return [Holder(item.pod, item.trusts, item.leaf, item.problem) for item in latest.values()]

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC service."""
        return grpc.method_handlers_generic_handler(
            names.SDS_SERVICE, {names.SDS_STREAM: grpc.stream_stream_rpc_method_handler(self._follow)}
        )

    async def _follow(self, requests: AsyncIterator[bytes], context: ServerContext) -> None:
        try:
            caller = await self._authenticate(context)
        except UnauthenticatedError as error:
            self._metrics.count("citadel_server_authentication_failure_count")
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        except AttestationUnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        if not caller.pod:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "roots are followed by pods: send a pod's token")
        follower = _Follower(f"{caller.pod.partition('/')[0]}.{caller.identity.namespace}")
        news = asyncio.Event()
        unsubscribe = self._trust.subscribe(news.set)
        self._followers[follower] = None
        try:
            await until_first_ends(self._hear(follower, requests, context, news), self._tell(follower, context, news))
        finally:
            unsubscribe()
            del self._followers[follower]

    async def _hear(
        self, follower: _Follower, requests: AsyncIterator[bytes], context: ServerContext, news: asyncio.Event
    ) -> None:
        async for data in requests:
            try:
                request = DiscoveryRequest.FromString(data)
            except DecodeError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a discovery request")
            if request.type_url not in {"", SECRET} or list(request.resource_names) != [names.SDS_ROOT]:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the one secret here is {names.SDS_ROOT}")
            follower.asked = True
            follower.trusts = request.version_info[:MAX_SAID]
            follower.leaf = str(dict(request.node.metadata).get(names.METADATA_CERTIFICATE_ROOT, ""))[:MAX_SAID]
            follower.problem = printable(request.error_detail.message)[:MAX_PROBLEM]
            if follower.problem:
                log.warning("%s refuses the mesh's roots: %s", follower.pod, follower.problem)
            news.set()

    async def _tell(self, follower: _Follower, context: ServerContext, news: asyncio.Event) -> None:
        while True:
            await news.wait()
            news.clear()
            roots = self._trust.authority.root_pem
            version = version_of(roots)
            # What it trusts it is told again only where it has refused something since.
            known = version == follower.sent or (version == follower.trusts and not follower.problem)
            if not follower.asked or known:
                continue
            follower.sent = version
            message = DiscoveryResponse(version_info=version, nonce=version[:16], type_url=SECRET)
            secret = Secret(name=names.SDS_ROOT)
            secret.validation_context.trusted_ca.inline_bytes = roots.encode()
            message.resources.add().Pack(secret)
            await context.write(message.SerializeToString())
