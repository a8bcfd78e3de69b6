"""`pymesh` as a program: its version, and what becomes of it when whoever reads its output goes away."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

PYMESH = (sys.executable, "-m", "pymesh_controlplane.cli.main")
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{port: 80}]}
"""


def test_the_version() -> None:
    done = subprocess.run([*PYMESH, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pymesh {version('pymesh-proxy')}\n", "")


# The first is printed by rich, the second by typer, the third by ourselves.
@pytest.mark.parametrize("arguments", [["validate", "-o", "json", "-f"], ["--help"], ["inject", "-f"]])
def test_a_reader_that_goes_away_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    manifest = tmp_path / "shop.yaml"
    manifest.write_text(SERVICE)
    files = [str(manifest)] if arguments[-1] == "-f" else []
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PYMESH, *arguments, *files], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
