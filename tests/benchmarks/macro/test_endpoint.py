"""Somebody's own endpoint."""

from pathlib import Path

import pytest

from benchmarks.macro import endpoint
from benchmarks.macro.__main__ import main
from benchmarks.macro.endpoint import Asked
from benchmarks.macro.proxies import NGINX
from benchmarks.macro.report import text
from benchmarks.macro.running import running
from benchmarks.macro.sites import configure
from pymesh.errors import MeshError

CONFIG = """daemon off; master_process off; pid ${FOLDER}/pid; error_log stderr;
events {}
http { access_log off; server { listen 127.0.0.1:${LISTEN}; location / { ${ANSWER} } } }
"""


@pytest.mark.parametrize(("answer", "failed"), [('return 200 "here";', False), ("return 503;", True)])
def test_a_server_is_measured_and_its_errors_are_told(tmp_path: Path, answer: str, failed: bool) -> None:
    template = tmp_path / "nginx.conf"
    template.write_text(CONFIG)
    port, config = configure(template, tmp_path / "own", {"ANSWER": answer})
    said: list[str] = []
    with running("server", [NGINX.require(), "-c", str(config), "-e", "stderr"], port, tmp_path / "log", {0}):
        section, broken = endpoint.measure(Asked(f"http://127.0.0.1:{port}/", 200, 4, 1, 1), said.append)
    assert broken == failed
    assert said[0].startswith("round 1: requests/s ")
    lines = text(section)
    assert [title for title in lines[3].split("  ") if title] == [
        "requests/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
    ]
    assert ("errors: none" in lines) != failed
    assert any("status" in line for line in lines) == failed


def test_nobody_listens() -> None:
    with pytest.raises(MeshError, match="cannot connect to"):
        endpoint.measure(Asked("http://127.0.0.1:1/", 10, 1, 1, 1), print)


def test_what_is_no_url_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "here", "--quick"]) == 1
    assert "'here' is no target: write http://host:port/path" in capsys.readouterr().err
