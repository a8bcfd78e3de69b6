"""From a call on a TLS port to its origin."""

from collections.abc import Sequence
from typing import cast

import grpc
import pytest

from pymesh.identity import Identity
from pymesh_controlplane.callers import proved
from pymesh_controlplane.citadel.attestation import (
    AttestationUnavailableError,
    Attested,
    Authenticator,
    TlsPeer,
    UnauthenticatedError,
)
from pymesh_controlplane.citadel.gate import Gate
from pymesh_controlplane.pilot.server import Origin, ServerContext, StreamError

REVIEWS = Identity("cluster.local", "default", "reviews")


class Call:
    """A call, as far as it is looked at."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:40000"

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return [("authorization", "Bearer token")]


class Answer:
    """Whoever is asked about tokens says this."""

    def __init__(self, said: Attested | Exception) -> None:
        self._said = said

    async def verify(self, _: str) -> Attested:
        if isinstance(self._said, Exception):
            raise self._said
        return self._said


async def origin(said: Attested | Exception, refused: list[str]) -> Origin:
    gate = Gate(lambda _: TlsPeer("10.244.0.7:4000"), Authenticator(Answer(said), "cluster.local"))
    return await proved(gate, lambda: refused.append("refused"))(cast("ServerContext", Call()))


async def test_the_origin_is_where_the_caller_is_and_who_it_has_proved_to_be() -> None:
    refused: list[str] = []
    assert await origin(Attested(REVIEWS), refused) == Origin("10.244.0.7:4000", REVIEWS)
    assert not refused


@pytest.mark.parametrize(
    ("error", "code", "counted"),
    [
        (UnauthenticatedError("expired"), grpc.StatusCode.UNAUTHENTICATED, ["refused"]),
        (AttestationUnavailableError("nobody can tell"), grpc.StatusCode.UNAVAILABLE, []),
    ],
)
async def test_who_proves_nothing_is_refused_and_who_could_not_be_asked_about_is_put_off(
    error: Exception, code: grpc.StatusCode, counted: list[str]
) -> None:
    """The latter comes again, and is nobody's failure to prove anything."""
    refused: list[str] = []
    with pytest.raises(StreamError, match=str(error)) as caught:
        await origin(error, refused)
    assert caught.value.code == code
    assert refused == counted
