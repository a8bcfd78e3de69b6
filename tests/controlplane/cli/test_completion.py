"""What the shell offers after a Tab."""

import os
import subprocess
import sys
from pathlib import Path

PYMESH = Path(sys.executable).parent / "pymesh"


def completed(line: str, **environment: str) -> list[str]:
    words = line.split(" ")
    env = {**os.environ, "_PYMESH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([PYMESH], env={**env, **environment}, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.split()


def test_kinds_and_options() -> None:
    assert completed("pymesh get virt") == ["virtualservices"]
    assert completed("pymesh graph --ku") == ["--kubeconfig"]


def test_contexts_of_the_kubeconfig(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text('{"contexts": [{"name": "kind-one"}, {"name": "kind-two"}, {"name": "other"}]}')
    assert completed("pymesh graph --context kind", KUBECONFIG=str(config)) == ["kind-one", "kind-two"]


def test_where_nobody_answers_nothing_is_offered_and_nothing_said(tmp_path: Path) -> None:
    assert completed("pymesh shift re", HOME=str(tmp_path), PYMESH_MESH="nobody") == []


def test_bash_takes_the_script_and_completes() -> None:
    """As bash does after a Tab: the function of the script is called, and what it leaves is in COMPREPLY."""
    script = (
        'eval "$(pymesh --show-completion | cat)"; COMP_WORDS=(pymesh journ); COMP_CWORD=1; '
        '_pymesh_completion pymesh; echo "${COMPREPLY[@]}"'
    )
    path = f"{PYMESH.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "journey\n"
