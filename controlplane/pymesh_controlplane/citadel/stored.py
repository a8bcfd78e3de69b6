"""What citadel's stores have in common: what was read of one, and how a step of a rotation is kept in it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pymesh_controlplane.citadel.authority import Authority
from pymesh_controlplane.citadel.rotation import Kept


@dataclass(frozen=True, slots=True)
class Stored:
    """An authority as it is kept.

    Attributes:
        kept: the roots that citadel made; None where somebody brought the authority.
        place: where it is, as sentences call it.
        digest: of the documents that it was read from.
    """

    authority: Authority
    kept: Kept | None
    place: str
    digest: str


class Store(Protocol):
    """A place where the authority is kept."""

    async def read(self, *, now: datetime) -> Stored:
        """What is there; it is made where nothing is.

        Raises:
            ConfigError: what is there is damaged, expired or incomplete.
            KubernetesError: the API server does not answer, or says no.
        """
        ...

    async def write(self, kept: Kept, before: Stored) -> None:
        """Keep `kept` in place of `before`.

        Raises:
            RotationError: it is not `before` any more that is there; nothing was written.
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
