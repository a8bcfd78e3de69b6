"""Commands of the pages that need a cluster (`console cluster`) are commands, about files that there are.

They run on clusters only, so nothing is compared with what they print; every option and every file is looked up. What
`pymesh` is given is read by its own parser, what kubectl is given by kubectl.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from pymesh_controlplane.cli.main import app
from tests.support.repository import ROOT
from tests.test_docs import PAGES, commands

BLOCK = re.compile(r"^```console cluster\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KUBECTL = Path(sys.executable).parent / "kubectl"
# Where a command of a shell's line ends, and the next may begin.
SEPARATOR = re.compile(r"[;&|()]+|do|then")


def invocations(line: str) -> Iterator[list[str]]:
    """The commands in a line of shell, word by word."""
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in [*lexer, ";"]:
        if SEPARATOR.fullmatch(word):
            if words:
                yield words[: words.index(">")] if ">" in words else words
            words = []
        else:
            words.append(word)


def all_invocations() -> list[object]:
    return [
        pytest.param(words, id=f"{page.name}: {' '.join(words)[:60]}")
        for page in PAGES
        for block in BLOCK.findall(page.read_text())
        for command in commands(block)
        for words in invocations(command.text)
        if words[0] in {"pymesh", "kubectl"}
    ]


def check(words: list[str]) -> None:
    """Raise AssertionError if `words` are no command."""
    if words[0] == "pymesh":
        group = typer.main.get_command(app)
        try:
            with group.make_context("pymesh", words[1:]) as context:
                name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
                assert command is not None, name
                command.make_context(name, rest, parent=context)
        except Exception as error:
            raise AssertionError(f"{' '.join(words)}: {error}") from None
    else:
        done = subprocess.run([KUBECTL, *words[1:], "--help"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        assert "Usage:" in done.stdout
    for word in words[1:]:
        if "/" in word and word.startswith("deploy/"):
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("words", all_invocations())
def test_a_command_that_needs_a_cluster_is_one(words: list[str]) -> None:
    check(words)


def test_what_is_no_command_is_noticed() -> None:
    for wrong in (
        ["pymesh", "instal"],
        ["pymesh", "shift", "reviews", "--too", "v2"],
        ["kubectl", "-n", "x", "wait", "--form=condition=Ready"],
        ["kubectl", "apply", "-f", "deploy/nowhere"],
    ):
        with pytest.raises(AssertionError):
            check(wrong)


def test_commands_are_found_within_a_line() -> None:
    line = "(while sleep 1; do curl -s http://x/ > /dev/null; done &) && pymesh graph | grep -q 'a;b'"
    assert list(invocations(line)) == [
        ["while", "sleep", "1"], ["curl", "-s", "http://x/"], ["done"], ["pymesh", "graph"], ["grep", "-q", "a;b"],
    ]  # fmt: skip
