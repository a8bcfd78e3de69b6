"""What citadel's stores have in common: what is read from one, and how a step of a rotation is written to it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pymesh_controlplane.citadel.authority import Authority
from pymesh_controlplane.citadel.rotation import OwnRoots


@dataclass(frozen=True, slots=True)
class Stored:
    """An authority as it was read from its store.

    Attributes:
        own: the roots that citadel made; None for an authority that was brought along.
        place: where it is, for error messages.
        digest: of the documents that it was read from: it tells whether they have changed.
    """

    authority: Authority
    own: OwnRoots | None
    place: str
    digest: str


class Store(Protocol):
    """A place that keeps the authority over restarts."""

    async def read(self, *, now: datetime) -> Stored:
        """What is stored; a new authority is made and stored where there is none.

        Raises:
            ConfigError: what is there is damaged, expired or incomplete.
            KubernetesError: the API server does not answer, or says no.
        """
        ...

    async def write(self, own: OwnRoots, before: Stored) -> None:
        """Store `own` in place of `before`.

        Raises:
            RotationError: what is stored is not `before` any more; nothing was written.
            ConfigError: it cannot be written.
            KubernetesError: likewise.
        """
        ...


def digest_of(documents: Mapping[str, bytes]) -> str:
    """A digest that is equal for equal documents."""
    digest = hashlib.sha256()
    for name in sorted(documents):
        digest.update(f"{name} {len(documents[name])} ".encode() + documents[name])
    return digest.hexdigest()
