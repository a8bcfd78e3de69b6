"""The authority on disk: read if it is there, made if nothing is, and refused, untouched, if it is damaged.

An authority of your own is the files that `pem` tells of. Without them citadel makes its own and keeps key and
certificate together in `self-signed-ca.pem`: one file, so that there is no moment at which one is written and the other
is not.
"""

import logging
import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Final

from pymesh_controlplane import files
from pymesh_controlplane.citadel import pem
from pymesh_controlplane.citadel.authority import Authority

log = logging.getLogger("pymesh.citadel")

SELF_SIGNED: Final = "self-signed-ca.pem"


def load_or_create(directory: Path, trust_domain: str, *, now: datetime) -> Authority:
    """The authority kept in `directory`, which is made, 0700, if it is not there.

    Raises:
        ConfigError: a file is missing, damaged, expired, readable by others or does not fit the rest; or a new
            authority cannot be written. Nothing that is there is ever overwritten.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        mode = stat.S_IMODE(directory.stat().st_mode)
        own = {name for name in (pem.CERTIFICATE, pem.KEY, pem.ROOT, pem.CHAIN) if (directory / name).exists()}
        made = (directory / SELF_SIGNED).exists()
    except OSError as error:
        raise pem.refuse(str(directory), f"cannot be used as citadel's folder: {error.strerror}") from error
    if mode & 0o077:
        raise pem.refuse(str(directory), f"is open to other users (mode {mode:04o}): chmod 700 it")
    if not own:
        return _self_signed(directory / SELF_SIGNED, trust_domain, now)
    if made:
        log.warning("%s is not used: %s is there, and it comes first", directory / SELF_SIGNED, min(own))
    found = {name: _read(directory / name, secret=name == pem.KEY) for name in sorted(own)}
    return pem.plugged(found, f"{directory}/", trust_domain, now=now)


def _self_signed(path: Path, trust_domain: str, now: datetime) -> Authority:
    if not path.exists():
        certificate, key = pem.new_pair(trust_domain, now=now)
        if files.create(path, key + certificate, 0o600):
            log.info("made a new root: %s", path)
    content = _read(path, secret=True)
    return pem.own_root(content, content, str(path), trust_domain, now=now)


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
