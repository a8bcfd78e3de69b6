"""The mesh's roots as a workload has them: from a file at first, and from then on as citadel pushes them.

The pod starts with the file, which the platform renews sooner or later. What citadel pushes comes at once and is
acknowledged. While a root is replaced, citadel has to know of every workload which roots it trusts and which root its
own certificate leads to, so each stream tells both whenever they change (`citadel/bundles.py`).

Where the authority pushes nothing, as Istio's, the file is all there is.
"""

import asyncio
import hashlib
import logging
import random
import ssl
from pathlib import Path
from typing import Final

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.message import DecodeError

from pymesh.grpc.status import Code, RpcError
from pymesh.names import METADATA_CERTIFICATE_ROOT, SDS_ROOT, SDS_SERVICE, SDS_STREAM, SDS_WORKLOAD
from pymesh.xds.types import SECRET
from pymesh_proxy.control.backoff import Backoff
from pymesh_proxy.control.channel import Channel, Stream
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.secrets import Certificate, Roots, SecretStore, read_bounded

log = logging.getLogger(__name__)

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"


class TrustedRoots:
    """SDS_ROOT of `store`: what `file` holds, until citadel has pushed something else.

    Attributes:
        version: of the roots that were pushed, as citadel names it; empty until some were.
    """

    def __init__(self, store: SecretStore, file: Path) -> None:
        self._store = store
        self._file = file
        self._pushed = b""
        self.version = ""

    def in_force(self) -> bytes:
        """The roots in force, PEM; unless some were pushed, the file is read anew and put into the store.

        Raises:
            OSError: the file cannot be read, or holds no certificate.
        """
        if self._pushed:
            return self._pushed
        pem = read_bounded(self._file)
        if _BEGIN.encode() not in pem:
            raise OSError(f"{self._file} holds no certificate")
        if self._store.put(SDS_ROOT, Roots(pem)) and self._store.generation(SDS_ROOT) > 1:
            log.info("the mesh's roots have changed")
        return pem

    def pushed(self) -> bytes:
        """What was pushed, PEM; empty until something was."""
        return self._pushed

    def push(self, pem: bytes, version: str) -> None:
        """Put the roots in force that citadel has pushed.

        Raises:
            ValueError: `pem` is no list of certificates; nothing has changed.
        """
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"what was pushed is no list of certificates: {error}") from error
        self._pushed, self.version = pem, version
        if self._store.put(SDS_ROOT, Roots(pem)) and self._store.generation(SDS_ROOT) > 1:
            log.info("citadel has pushed other roots: %s", ", ".join(item[:16] for item in fingerprints(pem)))


class RootsClient:
    """Follows citadel over `channel`, and tells it what is in force.

    Args:
        rng: spreads the reconnects.
    """

    def __init__(
        self, channel: Channel, node: Node, store: SecretStore, roots: TrustedRoots, *, rng: random.Random
    ) -> None:
        self._channel = channel
        self._node = node
        self._store = store
        self._roots = roots
        self._backoff = Backoff(rng)
        self._told = ""

    async def run(self) -> None:
        """Keep a stream to citadel, from the first certificate on; ends only by cancellation."""
        await self._certified()
        while True:
            try:
                await self._follow()
                problem = "citadel has ended the stream"
            except RpcError as error:
                problem = error.status.message or str(error)
                if error.status.code is Code.UNIMPLEMENTED:
                    problem = "this authority pushes no roots: those in the file hold"
                    self._backoff.exhaust()
            delay = self._backoff.delay()
            level = logging.DEBUG if problem == self._told else logging.WARNING
            log.log(level, "roots: %s; trying again in %.1f s", problem, delay)
            self._told = problem
            await asyncio.sleep(delay)

    async def _certified(self) -> None:
        """Wait for our first certificate: until then the roots in the file do, and citadel is busy signing."""
        changed = asyncio.Event()
        unsubscribe = self._store.subscribe(lambda _: changed.set())
        try:
            while self._store.get(SDS_WORKLOAD) is None:
                changed.clear()
                await changed.wait()
        finally:
            unsubscribe()

    async def _follow(self) -> None:
        """One stream, to its end; raises RpcError."""
        renewed = asyncio.Event()
        renewed.set()
        unsubscribe = self._store.subscribe(lambda name: renewed.set() if name == SDS_WORKLOAD else None)
        try:
            async with self._channel.stream(f"/{SDS_SERVICE}/{SDS_STREAM}") as stream:
                saying = asyncio.get_running_loop().create_task(self._say(stream, renewed))
                try:
                    while (data := await stream.receive()) is not None:
                        await stream.send(self._request(*self._take(data)))
                        self._backoff.reset()
                        self._told = ""
                finally:
                    saying.cancel()
                    await asyncio.wait([saying])
        finally:
            unsubscribe()

    async def _say(self, stream: Stream, renewed: asyncio.Event) -> None:
        """Tell citadel what is in force, at first and whenever our certificate is renewed."""
        while True:
            await renewed.wait()
            renewed.clear()
            try:
                await stream.send(self._request())
            except RpcError:
                return  # `_follow`, which receives, gets the same error

    def _take(self, data: bytes) -> tuple[str, str]:
        """Put a response in force; its nonce, and why it is refused, "" if it is not."""
        try:
            message = DiscoveryResponse.FromString(data)
        except DecodeError as error:
            return "", f"not a discovery response: {error}"
        try:
            secrets = [Secret.FromString(item.value) for item in message.resources if item.type_url == SECRET]
            pem = next(item.validation_context.trusted_ca.inline_bytes for item in secrets if item.name == SDS_ROOT)
            self._roots.push(pem, message.version_info)
        except StopIteration:
            return message.nonce, f"there is no {SDS_ROOT} in it"
        except (DecodeError, ValueError) as error:
            log.error("citadel pushes roots that cannot be used, and the former stay in force: %s", error)
            return message.nonce, str(error)
        return message.nonce, ""

    def _request(self, nonce: str = "", problem: str = "") -> bytes:
        message = DiscoveryRequest(
            type_url=SECRET, resource_names=[SDS_ROOT], version_info=self._roots.version, response_nonce=nonce
        )
        message.node.id = self._node.id
        if leads_to := root_of(self._store):
            message.node.metadata.update({METADATA_CERTIFICATE_ROOT: leads_to})
        if problem:
            message.error_detail.code = Code.INVALID_ARGUMENT.value
            message.error_detail.message = problem
        return message.SerializeToString()


def root_of(store: SecretStore) -> str:
    """The fingerprint of the root that the workload's certificate leads to; "" without one.

    Citadel puts it at the end of the chain, as Istio's does.
    """
    secret = store.get(SDS_WORKLOAD)
    found = fingerprints(secret.chain) if isinstance(secret, Certificate) else []
    return found[-1] if found else ""


def fingerprints(pem: bytes) -> list[str]:
    """The SHA-256 of each certificate in `pem`, hex; what cannot be read is left out."""
    found = []
    for part in pem.decode("ascii", "ignore").split(_BEGIN)[1:]:
        try:
            der = ssl.PEM_cert_to_DER_cert(_BEGIN + part.partition(_END)[0] + _END)
        except ValueError:
            continue
        if der:
            found.append(hashlib.sha256(der).hexdigest())
    return found
