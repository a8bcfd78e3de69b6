"""The pictures themselves, drawn in the environment that has matplotlib."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.pictures.__main__ import main
from benchmarks.pictures.data import charts, curves
from tests.benchmarks.pictures.document import document

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-bench/bin/python"
TWICE = """
import sys
from benchmarks.pictures.__main__ import main
file, one, two = sys.argv[1:]
sys.exit(main([file, one]) or main([file, two]))
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="matplotlib is not installed: make pictures-environment")
def test_the_same_figures_give_the_same_pictures_with_all_that_they_are_about(tmp_path: Path) -> None:
    figures, one, two = tmp_path / "figures.json", tmp_path / "one", tmp_path / "two"
    figures.write_text(json.dumps(document()))
    names = {f"{picture.name}.svg" for picture in (*charts(document()), *curves(document()))}
    command = [str(PYTHON), "-c", TWICE, str(figures), str(one), str(two)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    drawn = [{file.name: file.read_text() for file in folder.iterdir()} for folder in (one, two)]
    assert drawn[0] == drawn[1]
    assert drawn[0].keys() == names == {"cpu.svg", "latency.svg", "memory.svg", "latency-h1-plain.svg"}
    assert all("<svg " in picture and picture.endswith("</svg>\n") for picture in drawn[0].values())
    # matplotlib says in comments which words it has drawn as outlines.
    for words in ("h1-plain, µs/request", "pymesh", "nginx", "0.60", "target of pymesh", "times what envoy takes"):
        assert f"<!-- {words}" in drawn[0]["cpu.svg"]
    for words in ("milliseconds", "99 %", "envoy (1,000 requests)"):
        assert f"<!-- {words}" in drawn[0]["latency-h1-plain.svg"]


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}"])
def test_what_is_no_run_is_told(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    if content is not None:
        file.write_text(content)
    assert main([str(file), str(tmp_path / "pictures")]) == 1
    assert capsys.readouterr().err.startswith("pictures: ")
    assert not (tmp_path / "pictures").exists()
