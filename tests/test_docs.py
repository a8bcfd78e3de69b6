"""The commands in README.md and docs/ do what the pages say: every `console` block is run, and its output compared.

In a block, a line that starts with `$ ` is run by bash at the root of the repository, with the project's commands on
the PATH; it must succeed. The lines below it must be in what it prints, in that order; `...` alone on a line stands
for any number of lines, `…` within one for any text. A block marked `console root` runs as root and may start a mesh.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pymesh_controlplane.cli.mesh import LocalMesh
from pymesh_controlplane.local import state
from tests.support.repository import ROOT

BLOCK = re.compile(r"^```console( root)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MESH = "docs"
TIMEOUT = 110  # seconds for one command; the demo promises 90


@dataclass
class Command:
    text: str
    expected: list[str] = field(default_factory=list)


def commands(block: str) -> list[Command]:
    found: list[Command] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        elif found and found[-1].text.endswith("\\"):
            found[-1].text += f"\n{line}"
        elif found:
            found[-1].expected.append(line)
    return found


def pattern(expected: list[str]) -> re.Pattern[str]:
    return re.compile("".join(r"(?:.*\n)*?" if line == "..." else f"{_text(line)}[ \t]*\n" for line in expected))


def _text(line: str) -> str:
    return ".*?".join(map(re.escape, line.split("…")))


def blocks() -> list[object]:
    """The blocks that need neither root nor a mesh, each a test of its own."""
    return [
        pytest.param(match[2], id=f"{page.name}:{page.read_text()[: match.start()].count(chr(10)) + 1}")
        for page in PAGES
        for match in BLOCK.finditer(page.read_text())
        if not match[1]
    ]


def run(block: str, **environment: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands(block):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.text], cwd=ROOT, env={**os.environ, "PATH": path, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command.text}\n{done.stdout}"
        if command.expected:
            assert pattern(command.expected).search(done.stdout), f"$ {command.text}\n{done.stdout}"


@pytest.mark.parametrize("block", blocks())
def test_commands_of_the_pages(block: str) -> None:
    run(block)


@pytest.mark.e2e
@pytest.mark.netns
@pytest.mark.mesh
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```console root" in page.read_text()], ids=lambda p: p.name
)
def test_commands_of_the_pages_that_need_root(page: Path) -> None:
    """All blocks of a page, one after the other, in a mesh of their own instead of the default one."""
    found = [match[2].replace("mesh default", f"mesh {MESH}") for match in BLOCK.finditer(page.read_text()) if match[1]]
    try:
        for block in found:
            run(block, PYMESH_MESH=MESH)
        assert not state.exists(state.named(MESH)), f"{page.name} leaves its mesh behind"
    finally:
        LocalMesh(MESH).down()


def test_the_comparison_notices_a_difference() -> None:
    block = "$ printf 'one\\ntwo\\nthree\\n'\n"
    run(block + "one\n...\nthr…\n")
    for wrong in ("one\nthree\n", "two\n...\none\n", "four\n"):
        with pytest.raises(AssertionError):
            run(block + wrong)
    with pytest.raises(AssertionError):
        run("$ false\n")
