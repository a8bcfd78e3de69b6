"""Certificates and trusted roots by name, and who wants to hear of a new one.

The store is where those who obtain secrets (the certificate client) meet those who use them (TLS contexts, the SDS
server). It holds the current secret of each name and nothing older; everything runs on one event loop.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

# A secret is a few kilobytes of PEM; whatever is larger than this is not one.
MAX_SECRET_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain, leaf first, and the key of its leaf.

    Attributes:
        chain, key: PEM.
        not_before, not_after: validity of the leaf in Unix seconds; 0 where it is not known (read from a file).
        serial: serial number of the leaf in lower-case hexadecimal; may be empty.
        uri: the leaf's URI SAN, its SPIFFE identity; may be empty.
    """

    chain: bytes
    key: bytes = field(repr=False)
    not_before: float = 0.0
    not_after: float = 0.0
    serial: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Roots:
    """Certificates that chains may end in, PEM."""

    pem: bytes


Secret: TypeAlias = Certificate | Roots


class SecretStore:
    """The current secret of each name."""

    def __init__(self) -> None:
        self._secrets: dict[str, Secret] = {}
        self._generations: dict[str, int] = {}
        self._subscribers: list[Callable[[str], None]] = []

    def get(self, name: str) -> Secret | None:
        """The secret called `name`, or None while it has not arrived."""
        return self._secrets.get(name)

    def generation(self, name: str) -> int:
        """How often `name` has been set: 0 means never; a change means that it was rotated."""
        return self._generations.get(name, 0)

    def names(self) -> tuple[str, ...]:
        """The names of all secrets present, in the order of their first arrival."""
        return tuple(self._secrets)

    def put(self, name: str, secret: Secret) -> bool:
        """Make `secret` the current one and tell the subscribers; False if it is the one already there."""
        if self._secrets.get(name) == secret:
            return False
        self._secrets[name] = secret
        self._generations[name] = self.generation(name) + 1
        for tell in tuple(self._subscribers):
            tell(name)
        return True

    def drop(self, name: str) -> None:
        """Forget the secret `name`, which nobody needs any more."""
        if self._secrets.pop(name, None) is not None:
            for tell in tuple(self._subscribers):
                tell(name)

    def subscribe(self, tell: Callable[[str], None]) -> Callable[[], None]:
        """Call `tell(name)` after each change, on the event loop, until the function returned is called.

        `tell` must not raise and must not block; it usually sets an event or clears a cache.
        """
        self._subscribers.append(tell)
        return lambda: self._subscribers.remove(tell)


def read_bounded(path: Path) -> bytes:
    """The content of a small file.

    Raises:
        OSError: it cannot be read, or is larger than MAX_SECRET_BYTES.
    """
    with path.open("rb") as file:
        content = file.read(MAX_SECRET_BYTES + 1)
    if len(content) > MAX_SECRET_BYTES:
        raise OSError(f"{path} is larger than {MAX_SECRET_BYTES} bytes; that is no certificate, key or token")
    return content
