"""From a gRPC call on a TLS port to its origin: who calls, proved."""

from collections.abc import Callable

import grpc

from pymesh_controlplane.citadel.attestation import AttestationUnavailableError, UnauthenticatedError
from pymesh_controlplane.citadel.gate import Gate
from pymesh_controlplane.pilot.server import Authenticate, Origin, ServerContext, StreamError


def proved(gate: Gate, refused: Callable[[], None]) -> Authenticate:
    """Tells the origin of calls that came through `gate`; `refused` is called for each that proved nothing."""

    async def origin(context: ServerContext) -> Origin:
        try:
            caller = await gate.caller(context)
        except UnauthenticatedError as error:
            refused()
            raise StreamError(grpc.StatusCode.UNAUTHENTICATED, str(error), "unauthenticated") from error
        except AttestationUnavailableError as error:
            raise StreamError(grpc.StatusCode.UNAVAILABLE, str(error), "attestation") from error
        return Origin(caller.address, caller.identity)

    return origin
