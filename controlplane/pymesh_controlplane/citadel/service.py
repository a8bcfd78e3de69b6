"""`istio.v1.auth.IstioCertificateService`: a CSR and a token in, a certificate chain out.

A certificate of this mesh is no proof here, though it is to pilot: it would renew itself for ever, also after its
account was deleted or its key was stolen. A token is asked about each time, so both end with the last certificate.

Every signature, and every refusal, leaves one line in the log `pymesh.citadel.audit`.
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, TypeAlias

import grpc
import grpc.aio

from pymesh import istio_ca, names
from pymesh_controlplane.citadel.attestation import AttestationUnavailableError, Caller, UnauthenticatedError
from pymesh_controlplane.citadel.authority import LEAF_LIFETIME, MAX_LEAF_LIFETIME, CsrError, Issued
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.metrics import Metrics

audit = logging.getLogger("pymesh.citadel.audit")

ServerContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
# Who calls; raises UnauthenticatedError for a caller that has proved nothing, AttestationUnavailableError if nobody can
# tell now.
Authenticate: TypeAlias = Callable[[ServerContext], Awaitable[Caller]]

# Seconds; the most that is granted, and more would overflow a timedelta.
_MAX_SECONDS: Final = int(MAX_LEAF_LIFETIME.total_seconds())


class CertificateService:
    """Signs for callers that have proved who they are."""

    def __init__(
        self, trust: Trust, authenticate: Authenticate, metrics: Metrics, clock: Callable[[], datetime]
    ) -> None:
        self._trust = trust
        self._authenticate = authenticate
        self._metrics = metrics
        self._clock = clock

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC service. Messages stay bytes until they are ours to refuse."""
        return grpc.method_handlers_generic_handler(
            istio_ca.SERVICE, {istio_ca.METHOD: grpc.unary_unary_rpc_method_handler(self._create)}
        )

    async def _create(self, data: bytes, context: ServerContext) -> bytes:
        self._metrics.count("citadel_server_csr_count")
        try:
            caller = with_token(await self._authenticate(context))
        except UnauthenticatedError as error:
            self._metrics.count("citadel_server_authentication_failure_count")
            audit.warning("refused: caller=%s: %s", error.address or context.peer(), error)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        except AttestationUnavailableError as error:
            audit.warning("put off: caller=%s: %s", error.address or context.peer(), error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        try:
            issued = self._sign(data, caller)
        except CsrError as error:
            self._metrics.count("citadel_server_csr_sign_err_count")
            audit.warning(
                "refused: identity=%s caller=%s proof=%s pod=%s: %s",
                caller.identity,
                caller.address,
                caller.proof,
                caller.pod or "-",
                error,
            )
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._metrics.count("citadel_server_success_cert_issuance_count")
        audit.info(
            "signed: identity=%s serial=%x not_after=%s caller=%s proof=%s pod=%s",
            caller.identity,
            issued.serial,
            issued.expires.isoformat(),
            caller.address,
            caller.proof,
            caller.pod or "-",
        )
        return istio_ca.encode_response(issued.chain)

    def _sign(self, data: bytes, caller: Caller) -> Issued:
        try:
            request = istio_ca.decode_request(data)
        except ValueError as error:
            raise CsrError(str(error)) from error
        lifetime = LEAF_LIFETIME
        if request.validity_duration:
            lifetime = timedelta(seconds=max(-1, min(request.validity_duration, _MAX_SECONDS)))
        return self._trust.authority.issue_workload(
            request.csr.encode(), caller.identity, now=self._clock(), lifetime=lifetime
        )


def with_token(caller: Caller) -> Caller:
    """`caller`, who must have shown a token.

    Raises:
        UnauthenticatedError: a certificate was the proof.
    """
    if caller.proof != "token":
        error = UnauthenticatedError(
            f"the certificate of {caller.identity} does not renew itself: "
            f"send a token (authorization: Bearer ..., audience {names.TOKEN_AUDIENCE}) with each request to sign"
        )
        error.address = caller.address
        raise error
    return caller
