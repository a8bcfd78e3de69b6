"""`pymesh` as a program: its version, and what becomes of it when whoever reads its output goes away."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pymesh_controlplane.cli import main

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


def test_nothing_to_show_is_a_sentence_and_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """As kubectl says it; programs get an empty list."""
    monkeypatch.setattr(main, "check_machine", lambda: None)
    monkeypatch.setattr(main.LocalMesh, "rows", lambda _: [])
    run = CliRunner().invoke
    assert run(main.app, ["ps", "-n", "nowhere"]).output == "No resources found in nowhere namespace.\n"
    assert run(main.app, ["ps", "-A"]).output == "No resources found.\n"
    assert run(main.app, ["ps", "-o", "json"]).output == "[]\n"


def test_apply_and_delete_wait_if_they_are_told_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waited: list[float] = []
    monkeypatch.setattr(main, "check_machine", lambda: None)
    monkeypatch.setattr(main.LocalMesh, "apply", lambda *_, **__: [("service/shop (default)", "created")])
    monkeypatch.setattr(main.LocalMesh, "delete", lambda *_, **__: [("service/shop (default)", "deleted")])
    monkeypatch.setattr(main.LocalMesh, "wait", lambda _, __, timeout: waited.append(timeout))
    manifest = tmp_path / "shop.yaml"
    manifest.write_text(SERVICE)
    assert "created" in CliRunner().invoke(main.app, ["apply", "-f", str(manifest)]).output
    assert waited == []
    CliRunner().invoke(main.app, ["apply", "-f", str(manifest), "--wait", "--timeout", "3"])
    assert waited == [3.0]
    CliRunner().invoke(main.app, ["delete", "svc", "shop"])
    assert waited == [3.0]
    CliRunner().invoke(main.app, ["delete", "svc", "shop", "--wait", "--timeout", "4"])
    assert waited == [3.0, 4.0]


def test_commands_do_not_wait_for_the_model_of_a_mesh() -> None:
    """It takes 0.1 s to load, a third of every command; the few that need it import it themselves."""
    script = "import sys, pymesh_controlplane.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert not {"pymesh_controlplane.pilot.model", "pymesh.resources.parse", "google.protobuf"} & set(loaded.split())
