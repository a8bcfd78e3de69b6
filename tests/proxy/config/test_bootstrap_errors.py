"""What a person sees who starts pymesh-proxy with a bootstrap that is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("static_resources:\n  clusters:\n  - name: a\n    connect_timeout: 0s\n",
         "{file}:4:5: static_resources.clusters[0].connect_timeout: must be above 0"),
        ("static_resources:\n  clusters:\n  - nme: a\n",
         "{file}:3:5: static_resources.clusters[0].nme: unknown field; did you mean 'name'?"),
        ("static_resources: [\n", "{file}:2:1: not YAML: while parsing a flow node did not find expected node content"),
        (None, "cannot read {file}: No such file or directory"),
    ],
)  # fmt: skip
def test_one_clear_message(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "bootstrap.yaml"
    if text is not None:
        file.write_text(text)
    for mode in (["--validate"], ["--admin", "127.0.0.1:0", "--metrics-port", "0", "--readiness-port", "0"]):
        ended = subprocess.run(
            [sys.executable, "-m", "pymesh_proxy", "--config", str(file), *mode],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 1
        assert ended.stderr == f"pymesh-proxy: {message.format(file=file)}\n"
        assert not ended.stdout
