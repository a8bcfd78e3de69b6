"""SDS on a Unix socket: secrets for an Envoy in the same pod (envoy.service.secret.v3.SecretDiscoveryService).

Each stream hears of the secrets it has asked for as soon as the store has them, and of each rotation. A name that is
not in the store (yet) is not answered: Envoy waits for it, as for any xDS resource.
"""

import asyncio
import itertools
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as SecretMessage
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)
from google.protobuf.message import DecodeError

from pymesh.grpc.status import Code, RpcError, Status
from pymesh.xds.types import SECRET
from pymesh_proxy.control.call import Call
from pymesh_proxy.control.grpc_server import GrpcServer
from pymesh_proxy.control.secrets import Certificate, SecretStore

log = logging.getLogger(__name__)

_SERVICE: Final = "/envoy.service.secret.v3.SecretDiscoveryService"
# Names that one stream may ask for: an Envoy asks for two.
MAX_NAMES: Final = 100


class SdsServer:
    """Serves the secrets of `store` on the socket `path`, to whom its permissions `mode` let in.

    Attributes:
        listening: set while the socket takes connections.
        pushes: responses sent; refusals: responses that a client did not accept.
    """

    def __init__(self, store: SecretStore, path: Path, *, mode: int = 0o600) -> None:
        self._store = store
        self._changed: set[asyncio.Event] = set()
        handlers = {
            f"{_SERVICE}/StreamSecrets": lambda call: self._serve(call, _StateOfTheWorld()),
            f"{_SERVICE}/DeltaSecrets": lambda call: self._serve(call, _Delta()),
        }
        self._server = GrpcServer(handlers, path, mode=mode)
        self.listening = self._server.listening
        self.pushes = 0
        self.refusals = 0

    async def run(self) -> None:
        """Listen until cancelled; the socket file is removed at the end.

        Raises:
            OSError: the socket cannot be made.
        """
        unsubscribe = self._store.subscribe(self._tell)
        try:
            await self._server.run()
        finally:
            unsubscribe()

    def _tell(self, _name: str) -> None:
        for event in self._changed:
            event.set()

    async def _serve(self, call: Call, session: "_Session") -> None:
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            async with asyncio.TaskGroup() as group:
                pushing = group.create_task(self._push(call, session, changed))
                while (data := await call.receive()) is not None:
                    if problem := _parse(session, data):
                        self.refusals += 1
                        log.warning("SDS: a secret was refused: %s", problem)
                    changed.set()
                pushing.cancel()
        except ExceptionGroup as errors:
            refused, rest = errors.split(RpcError)
            if refused is None or rest is not None:
                raise
            raise _innermost(refused) from None
        finally:
            self._changed.discard(changed)

    async def _push(self, call: Call, session: "_Session", changed: asyncio.Event) -> None:
        """Send what the client has asked for and does not have in its current generation."""
        while True:
            await changed.wait()
            changed.clear()
            fresh = [
                name
                for name in session.names
                if self._store.generation(name) and session.sent.get(name) != self._store.generation(name)
            ]
            if fresh:
                # Marked before sending: what changes while the client is slow to read is sent once more.
                session.sent |= {name: self._store.generation(name) for name in fresh}
                self.pushes += 1
                await call.send(session.response(self._store, fresh))


class _Session(Protocol):
    """What one stream has asked for, in one of the two dialects."""

    names: list[str]
    sent: dict[str, int]  # name → generation

    def request(self, data: bytes) -> str:
        """Take in a request; the error it reports, or nothing. Raises DecodeError."""

    def response(self, store: SecretStore, fresh: Iterable[str]) -> bytes:
        """What to send when the secrets `fresh` have changed."""


class _StateOfTheWorld:
    """StreamSecrets: every response has all that was asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sent: dict[str, int] = {}
        self._nonces = itertools.count(1)

    def request(self, data: bytes) -> str:
        """See _Session."""
        message = DiscoveryRequest.FromString(data)
        _check_type(message.type_url)
        self.names = list(message.resource_names)
        self.sent = {name: generation for name, generation in self.sent.items() if name in self.names}
        return message.error_detail.message

    def response(self, store: SecretStore, fresh: Iterable[str]) -> bytes:
        """See _Session."""
        message = DiscoveryResponse(type_url=SECRET, nonce=str(next(self._nonces)))
        present = [name for name in self.names if store.generation(name)]
        message.version_info = ",".join(f"{name}={store.generation(name)}" for name in present)
        for name in present:
            message.resources.add().Pack(to_message(store, name))
        return message.SerializeToString()


class _Delta:
    """DeltaSecrets: a response has what is new."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sent: dict[str, int] = {}
        self._nonces = itertools.count(1)

    def request(self, data: bytes) -> str:
        """See _Session."""
        message = DeltaDiscoveryRequest.FromString(data)
        _check_type(message.type_url)
        gone = set(message.resource_names_unsubscribe)
        kept = [name for name in self.names if name not in gone]
        self.names = kept + [name for name in message.resource_names_subscribe if name not in kept]
        # Who asks again, wants it again.
        gone |= set(message.resource_names_subscribe)
        self.sent = {name: generation for name, generation in self.sent.items() if name not in gone}
        return message.error_detail.message

    def response(self, store: SecretStore, fresh: Iterable[str]) -> bytes:
        """See _Session."""
        message = DeltaDiscoveryResponse(type_url=SECRET, nonce=str(next(self._nonces)))
        for name in fresh:
            resource = Resource(name=name, version=str(store.generation(name)))
            resource.resource.Pack(to_message(store, name))
            message.resources.append(resource)
        return message.SerializeToString()


def to_message(store: SecretStore, name: str) -> SecretMessage:
    """The secret called `name`, which must be in `store`, in Envoy's form."""
    secret = store.get(name)
    message = SecretMessage(name=name)
    if isinstance(secret, Certificate):
        message.tls_certificate.certificate_chain.inline_bytes = secret.chain
        message.tls_certificate.private_key.inline_bytes = secret.key
    elif secret is not None:
        message.validation_context.trusted_ca.inline_bytes = secret.pem
    return message


def _parse(session: _Session, data: bytes) -> str:
    try:
        problem = session.request(data)
    except DecodeError as error:
        raise RpcError(Status(Code.INVALID_ARGUMENT, f"not a discovery request: {error}")) from error
    if len(session.names) > MAX_NAMES:
        raise RpcError(Status(Code.RESOURCE_EXHAUSTED, f"more than {MAX_NAMES} secrets asked for"))
    return problem


def _check_type(type_url: str) -> None:
    if type_url and type_url != SECRET:
        raise RpcError(Status(Code.INVALID_ARGUMENT, f"{type_url} is not served here, only {SECRET}"))


def _innermost(error: Exception) -> Exception:
    """The error inside a group of one; of several at the same moment, the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
