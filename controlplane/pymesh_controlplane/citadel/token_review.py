"""Tokens of a Kubernetes cluster: its API server says whose each is, for the audience of this mesh.

A token that it takes has not expired, was made for `istio-ca`, and the pod that it is bound to still is there (an API
server remembers its answers for ten seconds). It is asked once for each call that shows a token: when a sidecar opens
its stream, and when it has its certificate signed. That is some 4 ms, 200 at once were answered within 0.7 s on two
cores: nothing to keep answers for, which would outlive the pods. Tokens are never logged.

RBAC: authentication.k8s.io tokenreviews create.
Source: kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.generic_resource import create_global_resource

from pymesh import names
from pymesh.errors import printable
from pymesh.identity import Identity
from pymesh_controlplane.citadel.attestation import (
    ACCOUNT,
    MAX_TOKEN_LENGTH,
    NAMESPACE,
    AttestationUnavailableError,
    Attested,
    UnauthenticatedError,
)
from pymesh_controlplane.kube.asking import KubernetesError, ask
from pymesh_controlplane.metrics import Metrics

log = logging.getLogger("pymesh.citadel")

# Questions at once, and callers that wait for their turn; beyond them a caller is told to try again. When a mesh
# starts, all sidecars come at once, and the API server has others to serve.
MAX_QUESTIONS: Final = 16
MAX_WAITING: Final = 4096
# Seconds for an answer, and for an answer and the turn before it: a caller gives up after ten.
TIMEOUT: Final = 4.0
PATIENCE: Final = 9.0

# Answers that say something of the question, not of who asked it or of the server.
_GARBAGE: Final = frozenset({400, 413, 422})
_POD: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_NODE: Final = "authentication.kubernetes.io/node-name"

TOKEN_REVIEW: Final = create_global_resource("authentication.k8s.io", "v1", "TokenReview", "tokenreviews")


class TokenReviewer:
    """Asks the Kubernetes API about tokens. See `attestation.Tokens`."""

    def __init__(self, client: AsyncClient, trust_domain: str, metrics: Metrics) -> None:
        self._client = client
        self._trust_domain = trust_domain
        self._metrics = metrics
        self._turn = asyncio.Semaphore(MAX_QUESTIONS)
        self._waiting = 0

    async def verify(self, token: str) -> Attested:
        """See `attestation.Tokens`."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise UnauthenticatedError(f"the token has more than {MAX_TOKEN_LENGTH} characters")
        try:
            attested = attested_by(await self._review(token), self._trust_domain)
        except UnauthenticatedError:
            self._metrics.count("citadel_server_token_reviews", "refused")
            raise
        except AttestationUnavailableError as error:
            self._metrics.count("citadel_server_token_reviews", "unavailable")
            log.warning("%s", error)
            raise
        self._metrics.count("citadel_server_token_reviews", "authenticated")
        return attested

    async def _review(self, token: str) -> Mapping[str, Any]:
        """The status of the TokenReview of `token`."""
        if self._waiting >= MAX_WAITING:
            raise AttestationUnavailableError("too many callers wait for their tokens to be reviewed: try again")
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE), self._turn:
                return await self._answer(token)
        except TimeoutError:
            raise AttestationUnavailableError("the Kubernetes API is slow to review tokens: try again") from None
        finally:
            self._waiting -= 1

    async def _answer(self, token: str) -> Mapping[str, Any]:
        question = TOKEN_REVIEW(
            apiVersion="authentication.k8s.io/v1",
            kind="TokenReview",
            spec={"token": token, "audiences": [names.TOKEN_AUDIENCE]},
        )
        try:
            answer = await ask(self._client.create(question), TIMEOUT)
        except KubernetesError as error:
            if error.code in _GARBAGE:
                raise UnauthenticatedError("the token is refused: the Kubernetes API cannot read it") from None
            raise AttestationUnavailableError(f"the token cannot be reviewed now: {error}") from error
        return answer.get("status") or {}


def attested_by(status: Mapping[str, Any], trust_domain: str) -> Attested:
    """What the status of a TokenReview says of a token.

    Raises:
        UnauthenticatedError: that it is none of a workload of this mesh.
    """
    if status.get("authenticated") is not True:
        why = printable(str(status.get("error") or "the Kubernetes API does not know it"))[:300]
        raise UnauthenticatedError(f"the token is refused: {why}")
    # A server that does not know of audiences would take any token, and say nothing of audiences.
    if names.TOKEN_AUDIENCE not in (status.get("audiences") or ()):
        raise UnauthenticatedError(f"the token is refused: it is not made for the audience {names.TOKEN_AUDIENCE}")
    user = status.get("user") or {}
    prefix, _, rest = str(user.get("username") or "").partition("system:serviceaccount:")
    namespace, _, account = rest.partition(":")
    if prefix or not NAMESPACE.fullmatch(namespace) or not ACCOUNT.fullmatch(account):
        raise UnauthenticatedError("the token is refused: it is not a service account's")
    return Attested(Identity(trust_domain, namespace, account), _pod(user.get("extra") or {}))


def _pod(extra: Mapping[str, Sequence[str]]) -> str:
    """The pod that a token is bound to: `reviews-v1-0/5d04...@node-1`; what is not told is left out."""
    pod, uid, node = (printable(" ".join(extra.get(key) or ())) for key in (_POD, _POD_UID, _NODE))
    return pod + (f"/{uid}" if uid else "") + (f"@{node}" if node else "")
