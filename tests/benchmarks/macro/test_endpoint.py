"""Somebody's own endpoint."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load.target import Request
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


def test_what_the_target_cannot_take_is_told(tmp_path: Path) -> None:
    """nginx lets one request in 20 ms in, and keeps the others waiting."""
    template = tmp_path / "nginx.conf"
    slow = "limit_req zone=all burst=1000; root /nowhere; error_page 404 =200 /here; location = /here { return 200; }"
    template.write_text(CONFIG.replace("http {", "http { limit_req_zone $$server_port zone=all:1m rate=50r/s;"))
    port, config = configure(template, tmp_path / "own", {"ANSWER": slow})
    with running("server", [NGINX.require(), "-c", str(config), "-e", "stderr"], port, tmp_path / "log", {0}):
        section, _ = endpoint.measure(Asked(f"http://127.0.0.1:{port}/", 100, 4, 1, 1), lambda _: None)
    assert any("requests a second: at 100 they wait for one another" in line for line in text(section))


def test_headers_are_sent_and_nothing_answered_is_no_latency(tmp_path: Path) -> None:
    template = tmp_path / "nginx.conf"
    template.write_text(CONFIG)
    port, config = configure(
        template, tmp_path / "own", {"ANSWER": 'if ($http_x_key = "ours") { return 200; } return 403;'}
    )
    with running("server", [NGINX.require(), "-c", str(config), "-e", "stderr"], port, tmp_path / "log", {0}):
        asked = Asked(f"http://127.0.0.1:{port}/", 50, 2, 1, 1, request=Request(headers=(("x-key", "ours"),)))
        assert not endpoint.measure(asked, lambda _: None)[1]
        section, failed = endpoint.measure(replace(asked, request=Request()), lambda _: None)
    assert failed
    assert text(section)[4].split()[1:] == ["-"] * 4


def test_nobody_listens() -> None:
    with pytest.raises(MeshError, match="cannot connect to"):
        endpoint.measure(Asked("http://127.0.0.1:1/", 10, 1, 1, 1), print)


def test_what_is_no_url_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "here", "--quick"]) == 1
    assert "'here' is no target: write http://host:port/path" in capsys.readouterr().err
