"""The authority on disk: read if it is there, made if nothing is, and refused, untouched, if it is damaged.

An authority that was brought along is the files that `pem` lists. Without them citadel makes its own and keeps key and
certificate together in `self-signed-ca.pem`: one file, so that there is no moment at which one is written and the other
is not. While its root is replaced, `rotation.json` is what counts, one file again.
"""

import asyncio
import json
import logging
import os
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from pymesh_controlplane import files
from pymesh_controlplane.citadel import pem
from pymesh_controlplane.citadel.authority import Authority
from pymesh_controlplane.citadel.report import RotationError
from pymesh_controlplane.citadel.rotation import OwnRoots
from pymesh_controlplane.citadel.stored import Stored, digest_of

log = logging.getLogger("pymesh.citadel")

SELF_SIGNED: Final = "self-signed-ca.pem"
ROTATION: Final = "rotation.json"


class FileStore:
    """The authority in `directory`, which is made, 0700, if it is not there. See `stored.Store`."""

    def __init__(self, directory: Path, trust_domain: str) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._warned = False  # that an authority of citadel's own is there and not used

    async def read(self, *, now: datetime) -> Stored:
        """See `stored.Store`."""
        return await asyncio.to_thread(self.read_now, now=now)

    async def write(self, own: OwnRoots, before: Stored) -> None:
        """See `stored.Store`."""
        await asyncio.to_thread(self._write, own, before)

    def read_now(self, *, now: datetime) -> Stored:
        """What `read` answers.

        Raises:
            ConfigError: a file is missing, damaged, expired, readable by others or does not fit the rest; or a new
                authority cannot be written. Nothing that is there is ever overwritten.
        """
        brought = self._brought()
        if brought:
            if (unused := self._directory / SELF_SIGNED).exists() and not self._warned:
                self._warned = True
                log.warning("%s is not used: %s is there, and it comes first", unused, min(brought))
            authority = pem.plugged(brought, f"{self._directory}/", self._trust_domain, now=now)
            return Stored(authority, None, str(self._directory), digest_of(brought))
        self._make(now)
        documents, file = self._own()
        own = pem.own_roots(documents, lambda name: f"{file}, {name}" if file.name == ROTATION else str(file), now=now)
        return Stored(own.authority(self._trust_domain), own, str(self._directory), digest_of(documents))

    def _brought(self) -> dict[str, bytes]:
        """The files of an authority that somebody brought; empty if there is none."""
        directory = self._directory
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            mode = stat.S_IMODE(directory.stat().st_mode)
            own = {name for name in (pem.CERTIFICATE, pem.KEY, pem.ROOT, pem.CHAIN) if (directory / name).exists()}
        except OSError as error:
            raise pem.refuse(str(directory), f"cannot be used as citadel's folder: {error.strerror}") from error
        if mode & 0o077:
            raise pem.refuse(str(directory), f"is open to other users (mode {mode:04o}): chmod 700 it")
        return {name: _read(directory / name, secret=name == pem.KEY) for name in sorted(own)}

    def _make(self, now: datetime) -> None:
        """Make an authority where there is none."""
        path = self._directory / SELF_SIGNED
        if path.exists() or (self._directory / ROTATION).exists():
            return
        new = pem.documents_of(OwnRoots(pem.new_pair(self._trust_domain, now=now)))
        if files.create(path, new[pem.KEY] + new[pem.CERTIFICATE], 0o600):
            log.info("made a new root: %s", path)

    def _own(self) -> tuple[Mapping[str, bytes], Path]:
        """The documents of an authority that citadel made, and the file that they are from."""
        rotating = self._directory / ROTATION
        if rotating.exists():
            content = _read(rotating, secret=True)
            try:
                return {str(name): str(text).encode() for name, text in json.loads(content).items()}, rotating
            except (ValueError, AttributeError) as error:
                raise pem.refuse(str(rotating), "is not JSON: restore it from a backup") from error
        path = self._directory / SELF_SIGNED
        content = _read(path, secret=True)
        return {pem.CERTIFICATE: content, pem.KEY: content}, path

    def _write(self, own: OwnRoots, before: Stored) -> None:
        if self._brought() or digest_of(self._own()[0]) != before.digest:
            raise RotationError(f"{self._directory} has changed meanwhile: look at pymesh ca status")
        documents = pem.documents_of(own)
        rotating = self._directory / ROTATION
        if own.last_step is not None:
            text = json.dumps({name: content.decode() for name, content in documents.items()}, indent=1)
            files.replace(rotating, text.encode(), 0o600)
            return
        # The signer is in `rotation.json`, too, so what is read is the same, or older by the last step, at any moment.
        files.replace(self._directory / SELF_SIGNED, documents[pem.KEY] + documents[pem.CERTIFICATE], 0o600)
        try:
            rotating.unlink(missing_ok=True)
        except OSError as error:
            raise pem.refuse(str(rotating), f"cannot be removed: {error.strerror}") from error


def load_or_create(directory: Path, trust_domain: str, *, now: datetime) -> Authority:
    """The authority kept in `directory`.

    Raises:
        ConfigError: see `FileStore.read_now`.
    """
    return FileStore(directory, trust_domain).read_now(now=now).authority


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(pem.MAX_BYTES + 1)
    except OSError as error:
        raise pem.refuse(str(path), f"cannot be read: {error.strerror}") from error
    if secret and mode & 0o077:
        raise pem.refuse(str(path), f"holds a private key that other users may read (mode {mode:04o}): chmod 600 it")
    if len(content) > pem.MAX_BYTES:
        raise pem.refuse(str(path), f"has more than {pem.MAX_BYTES} bytes: that is no certificate")
    return content
