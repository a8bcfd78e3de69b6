"""What the acts of the demo share: the mesh, where it is entered, the person who watches."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from pymesh.errors import MeshError
from pymesh_controlplane.cli.mesh import LocalMesh

NAMESPACE: Final = "bookinfo"

# Seconds between two looks.
POLL: Final = 0.1
# Seconds that one command of the demo may take; the longest is a shift in four steps.
COMMAND_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """The mesh `mesh`, entered at `entrance` (`http://127.0.0.1:8080`), told of on `console`."""

    mesh: LocalMesh
    console: Console
    entrance: str

    def heading(self, title: str) -> None:
        """Begin an act."""
        self.console.print(Text.assemble("\n", (title, "bold")))

    def say(self, *parts: str | tuple[str, str]) -> None:
        """A line of the act."""
        self.console.print(Text.assemble("  ", *parts))

    def command(self, *arguments: str) -> str:
        """Run `pymesh ARGUMENTS` in sight of the person; what it printed.

        Raises:
            MeshError: it fails, or takes too long; the person has seen what it said.
        """
        self.say(("$ ", "dim"), (f"pymesh {' '.join(map(_quoted, arguments))}", "bold"))
        first, *rest = arguments
        argv = [sys.executable, "-m", "pymesh_controlplane.cli.main", first, "--mesh", self.mesh.name, *rest]
        lines = []
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            too_long = threading.Timer(COMMAND_TIMEOUT, process.kill)
            too_long.start()
            try:
                for line in process.stdout:
                    lines.append(line)
                    self.console.print(Text.assemble("    ", line.rstrip("\n")))
                process.wait()
            finally:
                too_long.cancel()
                process.terminate()
        if process.returncode:
            raise MeshError(f"pymesh {first} ended with status {process.returncode}")
        return "".join(lines)


def until(timeout: float, missing: Callable[[], str]) -> None:
    """Call `missing` until it says that nothing is.

    Raises:
        MeshError: something still is after `timeout` seconds; the text says what.
    """
    deadline = time.monotonic() + timeout
    while what := missing():
        if time.monotonic() > deadline:
            raise MeshError(f"not within {timeout:.0f} s: {what}")
        time.sleep(POLL)


def program() -> str:
    """How the person calls `pymesh`: by its name if that is on the PATH, else as this process was called."""
    found = shutil.which("pymesh")
    return "pymesh" if found and Path(found).samefile(sys.argv[0]) else sys.argv[0]


def _quoted(argument: str) -> str:
    return f"'{argument}'" if set(argument) & set("<>|& ,*") else argument
