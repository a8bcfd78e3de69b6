"""The proxies that are compared, and how each is run: a new one is a row here and a file in a scenario's folder."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from pymesh.errors import MeshError

ROOT: Final = Path(__file__).resolve().parents[2]

_VERSION: Final = re.compile(r"\b\d+\.\d+\.\d+[\w.+~-]*")
# Seconds that a program has to say its version.
_VERSION_TIMEOUT: Final = 20.0


@dataclass(frozen=True, slots=True)
class Program:
    """A program of somebody's: where it is and how it is had.

    Attributes:
        name: for people.
        command: a path, or a name to look for.
        version_arguments: what makes it print its version.
        install: a command that installs it.
    """

    name: str
    command: str
    version_arguments: tuple[str, ...]
    install: str

    def find(self) -> str | None:
        """Its path, or None where it is not installed. Servers live in directories that are not on everybody's PATH."""
        return shutil.which(self.command) or shutil.which(self.command, path="/usr/sbin:/sbin")

    def require(self) -> str:
        """Its path.

        Raises:
            MeshError: it is not installed.
        """
        found = self.find()
        if found is None:
            raise MeshError(f"{self.name} is not installed: {self.install}")
        return found

    def version(self) -> str:
        """The version that it says it has."""
        command = [self.require(), *self.version_arguments]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_VERSION_TIMEOUT)
        return parse_version(said.stdout + said.stderr)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy under comparison.

    Attributes:
        configs: its file in a scenario's folder: the first of these that is there.
        arguments: with `${CONFIG}`, the file to read, and `${FOLDER}`, where that is.
    """

    program: Program
    configs: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """As on the command line."""
        return self.program.name

    def has_template(self, folder: Path) -> bool:
        """Whether it has a file in a scenario's folder."""
        return any((folder / name).exists() for name in self.configs)

    def template(self, folder: Path) -> Path:
        """Its file in a scenario's folder.

        Raises:
            MeshError: there is none.
        """
        for name in self.configs:
            if (folder / name).exists():
                return folder / name
        raise MeshError(f"{self.name} has no {' or '.join(self.configs)} in {folder}")

    def command(self, config: Path) -> list[str]:
        """The command line that runs it with a configuration file, in the foreground, on one thread of work."""
        return [
            self.program.require(),
            *(Template(word).substitute(CONFIG=config, FOLDER=config.parent) for word in self.arguments),
        ]


PYMESH: Final = "pymesh"
# pymesh-proxy, too, without what a scenario is about: what that costs is told by the difference.
BASELINE: Final = "pymesh-without"
# What every other proxy is compared with.
REFERENCE: Final = "envoy"
# The one that is written in Python, too.
PYTHON: Final = "mitmproxy"

WRK: Final = Program("wrk", "wrk", ("--version",), "apt-get install wrk")
NGINX: Final = Program("nginx", "nginx", ("-v",), "apt-get install nginx-light")

_OWN_VERSION: Final = ("-c", "from importlib.metadata import version; print(version('pymesh-proxy'))")
# Envoy has no ports beside its listener either, since the bootstrap names none.
_OWN_ARGUMENTS: Final = (
    "-m", "pymesh_proxy", "--config", "${CONFIG}",
    "--admin", "127.0.0.1:0", "--metrics-port", "0", "--readiness-port", "0",
)  # fmt: skip

PROXIES: Final = {
    proxy.name: proxy
    for proxy in (
        Proxy(
            Program(PYMESH, sys.executable, _OWN_VERSION, "make install"),
            ("bootstrap.yaml",),
            _OWN_ARGUMENTS,
        ),
        # The same without what a scenario is about, for those that have a file for it.
        Proxy(
            Program(BASELINE, sys.executable, _OWN_VERSION, "make install"),
            ("without.yaml",),
            _OWN_ARGUMENTS,
        ),
        Proxy(
            Program(REFERENCE, str(ROOT / ".venv-envoy/bin/envoy"), ("--version",), "make envoy"),
            # Where it counts something besides, of which pymesh-proxy's bootstrap knows nothing, it has its own.
            ("envoy.yaml", "bootstrap.yaml"),
            ("-c", "${CONFIG}", "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
        ),
        Proxy(
            Program("haproxy", "haproxy", ("-v",), "apt-get install haproxy"),
            ("haproxy.cfg",),
            ("-db", "-f", "${CONFIG}"),
        ),
        Proxy(NGINX, ("nginx.conf",), ("-c", "${CONFIG}", "-e", "stderr")),
        Proxy(
            Program(PYTHON, str(ROOT / ".venv-mitmproxy/bin/mitmdump"), ("--version",), "make mitmproxy"),
            ("mitmproxy/config.yaml",),
            ("--quiet", "--set", "confdir=${FOLDER}"),
        ),
    )
}  # fmt: skip
# Without these there is nothing to compare; the others only show where the floor is.
NEEDED: Final = (PYMESH, REFERENCE)


def choose(names: list[str]) -> tuple[list[Proxy], list[str]]:
    """The proxies to run, and a line for each that is left out because it is not installed.

    Args:
        names: the ones asked for; empty for all that are there.

    Raises:
        MeshError: one that is needed, or was asked for, is unknown or not installed.
    """
    if unknown := [name for name in names if name not in PROXIES]:
        raise MeshError(f"unknown proxy {', '.join(unknown)}: choose from {', '.join(PROXIES)}")
    chosen, skipped = [], []
    for name, proxy in PROXIES.items():
        if names and name not in names:
            continue
        if name in (names or NEEDED):
            proxy.program.require()
        if proxy.program.find() is None:
            skipped.append(f"{name} is left out: it is not installed ({proxy.program.install})")
        else:
            chosen.append(proxy)
    return chosen, skipped


def parse_version(said: str) -> str:
    """The first version number in what a program said of itself: `HAProxy version 2.6.12-1+deb12u4 …`."""
    found = _VERSION.search(said)
    return found[0] if found else "unknown"
