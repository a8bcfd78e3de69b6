"""How a control plane ends whose parts fail."""

import asyncio
import logging
import subprocess
import sys

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane import app, options
from pymesh_controlplane.options import Options
from pymesh_controlplane.running import Running


async def test_one_error_is_the_reason_and_the_others_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def start(_: Options, running: Running) -> None:
        running.start(fail(MeshError("the first")), fail(KeyError("a mistake")), fail(MeshError("the second")))
        await asyncio.Event().wait()

    monkeypatch.setattr(app, "start_on_one_machine", start)
    given = options.parse(["--components", "telemetry"], {})
    with caplog.at_level(logging.ERROR), pytest.raises(MeshError, match="the first"):
        await app.run(given, serving_now=lambda _: None)
    assert "the second" in caplog.text
    assert "KeyError: 'a mistake'" in caplog.text
    assert "the first" not in caplog.text


def test_on_one_machine_the_client_of_the_kubernetes_api_is_not_loaded() -> None:
    """It takes 0.3 s and 7 MB of each process, and one import in the wrong place brings it back."""
    script = "import sys, pymesh_controlplane.__main__; print(*sorted({'lightkube', 'httpx2'} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert loaded.split() == []
