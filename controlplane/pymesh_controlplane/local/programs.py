"""What containers are made of: the interpreter, the package, and a real Envoy where there is one."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Names the binary that pods with `sidecar.pymesh.io/proxy: envoy` run; by default the checkout's own environment's.
ENVOY_VARIABLE: Final = "PYMESH_ENVOY"
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGES: Final = ("pymesh", "pymesh_proxy", "pymesh_controlplane")


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths that every container must be able to enter, and the PATH that finds the programs in them."""

    required: tuple[str, ...]
    path: str


def find() -> Programs:
    """What this interpreter, and the package that it has, consist of."""
    binaries = Path(sys.prefix) / "bin"
    required = [sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), *map(str, _package_directories())]
    path = [str(binaries), _SYSTEM_PATH]
    envoy = find_envoy()
    if envoy is not None:
        # A wheel's `envoy` is a script beside its environment's packages; a plain binary needs nothing but itself.
        environment = envoy.parent.parent
        required.append(str(environment if (environment / "pyvenv.cfg").exists() else envoy))
        path.append(str(envoy.parent))
    # Names that lead to the interpreter by a link, as those of pyenv and Debian do, need what they lead to as well.
    required += [os.path.realpath(entry) for entry in required]
    return Programs(tuple(dict.fromkeys(required)), ":".join(path))


def find_envoy() -> Path | None:
    """The `envoy` program, if there is one."""
    named = os.environ.get(ENVOY_VARIABLE)
    if named:
        return Path(named).absolute()
    checkout = Path(__file__).resolve().parents[3]
    beside = checkout / ".venv-envoy" / "bin" / "envoy"
    return beside if beside.exists() else None


def _package_directories() -> list[Path]:
    """Where the packages are imported from: site-packages, or the directories of an editable checkout."""
    found = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).resolve().parent)
    return found
