"""At the door of the TLS port: from a gRPC call to the caller who has proved its identity."""

from collections.abc import Callable
from typing import TypeAlias

import grpc.aio

from pymesh_controlplane.citadel.attestation import (
    AttestationUnavailableError,
    Authenticator,
    Caller,
    TlsPeer,
    UnauthenticatedError,
)

ServerContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Gate:
    """Joins what the TLS frontend knows of a connection with what was sent with a call."""

    def __init__(self, peer_of: Callable[[str], TlsPeer | None], authenticator: Authenticator) -> None:
        self._peer_of = peer_of
        self._authenticator = authenticator

    async def caller(self, context: ServerContext) -> Caller:
        """Who calls.

        Raises:
            UnauthenticatedError: the caller has proved nothing, or did not come through the TLS port.
            AttestationUnavailableError: nobody can tell now.
        """
        peer = self._peer_of(context.peer())
        if peer is None:
            raise UnauthenticatedError("this port takes calls from the TLS port only")
        metadata = [(str(name), value) for name, value in context.invocation_metadata() or ()]
        try:
            return await self._authenticator.authenticate(metadata, peer)
        except (UnauthenticatedError, AttestationUnavailableError) as error:
            error.address = peer.address
            raise
