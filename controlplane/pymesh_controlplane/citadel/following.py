"""The mesh's roots as a component in a pod of its own has them: from a file at first, then as citadel pushes them.

It reports what is in use: the roots that came with its certificate, the root that this leads to, and why it has refused
what was pushed last. See `bundles`.
"""

import asyncio
import logging
import random
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.message import DecodeError

from pymesh import names
from pymesh.xds.types import SECRET
from pymesh_controlplane.citadel import client
from pymesh_controlplane.citadel.client import Certificate, CertificateError, Credentials
from pymesh_controlplane.citadel.report import version_of
from pymesh_controlplane.citadel.rotation import fingerprint
from pymesh_controlplane.tasks import until_first_ends

log = logging.getLogger("pymesh.citadel.client")


class Roots:
    """What the mesh trusts: what `file` holds, and from the first push on what the citadel at `target` has pushed.

    Args:
        target: `host:port`.
        token: file with the pod's token, read anew for each stream.
    """

    def __init__(self, target: str, token: Path, file: Path, rng: random.Random | None = None) -> None:
        self._target = target
        self._token = token
        self._file = file
        self._pushed = ""
        self._refused = ""  # why, of the roots pushed last
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, guards nothing

    def current(self) -> str:
        """The roots, PEM. Raises CertificateError where there are none yet."""
        return self._pushed or client.read(self._file, client.MAX_ROOT_BYTES)

    async def follow(self, certificate: Certificate) -> None:
        """Follow citadel until cancelled, and have `certificate` renewed whenever the roots change."""
        pause = client.FIRST_PAUSE
        while True:
            try:
                if await self._stream(certificate):
                    pause = client.FIRST_PAUSE
                problem = "citadel has ended the stream"
            except CertificateError as error:
                problem = str(error)
            except grpc.aio.AioRpcError as error:
                problem = error.details() or error.code().name
            log.warning("the mesh's roots are not followed: %s", problem)
            await asyncio.sleep(pause * (0.5 + self._rng.random() / 2))
            pause = min(pause * 2, client.LONGEST_PAUSE)

    async def _stream(self, certificate: Certificate) -> bool:
        """One stream, to its end; whether anything came."""
        # The file as well: whoever was away for a whole rotation verifies citadel by that.
        known = self._pushed + "\n" + client.read(self._file, client.MAX_ROOT_BYTES)
        credentials = grpc.ssl_channel_credentials(known.encode())
        news, heard = asyncio.Event(), asyncio.Event()
        news.set()
        unsubscribe = certificate.subscribe(news.set)
        try:
            await self._converse(certificate, credentials, news, heard)
        finally:
            unsubscribe()
        return heard.is_set()

    async def _converse(
        self, certificate: Certificate, credentials: grpc.ChannelCredentials, news: asyncio.Event, heard: asyncio.Event
    ) -> None:
        async with grpc.aio.secure_channel(self._target, credentials) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                f"/{names.SDS_SERVICE}/{names.SDS_STREAM}"
            )
            call = method(metadata=client.bearer(self._token))

            async def say() -> None:
                while True:
                    await news.wait()
                    news.clear()
                    await call.write(_request(certificate.current, self._refused))

            async def hear() -> None:
                async for data in call:
                    heard.set()
                    before = self._refused
                    self._take(data, certificate)
                    if before or self._refused:
                        news.set()

            await until_first_ends(say(), hear())

    def _take(self, data: bytes, certificate: Certificate) -> None:
        try:
            message = DiscoveryResponse.FromString(data)
            secrets = [Secret.FromString(item.value) for item in message.resources]
            pushed = next(item for item in secrets if item.name == names.SDS_ROOT)
            roots = pushed.validation_context.trusted_ca.inline_bytes.decode()
            x509.load_pem_x509_certificates(roots.encode())
        except (DecodeError, StopIteration, ValueError) as error:
            self._refused = f"no set of roots: {error!r}"
            log.error("what citadel has pushed is not taken: %s", self._refused)
            return
        self._refused = ""
        if roots != self._pushed:
            self._pushed = roots
            certificate.renew()


def _request(used: Credentials | None, refused: str) -> bytes:
    """What is in use, and why other roots were `refused`."""
    message = DiscoveryRequest(type_url=SECRET, resource_names=[names.SDS_ROOT])
    if used is not None:
        message.version_info = version_of(used.roots)
        leaf = fingerprint(x509.load_pem_x509_certificate(used.root.encode()))
        message.node.metadata.update({names.METADATA_CERTIFICATE_ROOT: leaf})
    if refused:
        message.error_detail.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
        message.error_detail.message = refused
    return message.SerializeToString()
