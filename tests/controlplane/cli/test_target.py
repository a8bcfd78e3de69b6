"""Which mesh a command is about, and which commands are about meshes of this machine only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli import kubectl, target

PYMESH = (sys.executable, "-m", "pymesh_controlplane.cli.main")


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / ".kube" / "config"
    path.parent.mkdir()
    path.touch()
    return path


@pytest.fixture(params=[False, True], ids=["no mesh runs", "mesh default runs"])
def runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(target.state, "supervisor", lambda _: 1 if request.param else None)
    return bool(request.param)


def test_a_cluster_that_is_named_wins(kubeconfig: Path, runs: bool) -> None:
    home = {"HOME": str(kubeconfig.parents[1]), "PYMESH_MESH": "other"}
    assert target.which("", "kind", "", home) == [kubeconfig]
    assert target.which("", "", "/some/file", home) == [Path("/some/file")]
    assert target.which("", "kind", "", {"KUBECONFIG": f"/nowhere:{kubeconfig}"}) == [kubeconfig]


def test_a_mesh_of_this_machine_that_is_named_wins_over_the_rest(kubeconfig: Path, runs: bool) -> None:
    home = {"HOME": str(kubeconfig.parents[1])}
    assert target.which("other", "", "", home) is None
    assert target.which("", "", "", home | {"PYMESH_MESH": "other"}) is None


def test_without_a_word_it_is_the_mesh_that_runs_here_else_the_cluster(kubeconfig: Path, runs: bool) -> None:
    expected = None if runs else [kubeconfig]
    assert target.which("", "", "", {"HOME": str(kubeconfig.parents[1])}) == expected


def test_where_there_is_neither_both_ways_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.state, "supervisor", lambda _: None)
    with pytest.raises(MeshError, match=r"pymesh up -f DIR starts it.*--kubeconfig FILE"):
        target.which("", "", "", {"HOME": "/nowhere"})
    with pytest.raises(MeshError, match=r"there is no kubeconfig: .*--kubeconfig FILE names one"):
        target.which("", "kind", "", {"HOME": "/nowhere"})


def test_the_file_that_kubeconfig_names_and_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.state, "supervisor", lambda _: None)
    for context in ("kind", ""):
        with pytest.raises(MeshError, match=r"\$KUBECONFIG names /nope, and no such file is there"):
            target.which("", context, "", {"HOME": "/nowhere", "KUBECONFIG": "/nope"})


def test_both_at_once_are_refused() -> None:
    with pytest.raises(MeshError, match=r"--mesh names a mesh of this machine, .* give one of them"):
        target.which("shop", "kind", "", {})
    with pytest.raises(MeshError, match=r"-n shop is one namespace, -A all of them"):
        target.only("shop", everywhere=True)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["logs", "web", "--context", "kind"], "kubectl --context kind logs POD"),
        (["ps", "--kubeconfig=f", "--context=c"], "kubectl --kubeconfig=f --context=c get pods -A"),
        (["up", "--context", "kind"], "pymesh install --context kind"),
        (["exec", "web", "--context", "kind", "--", "true"], "kubectl --context kind exec POD -- COMMAND"),
    ],
)
def test_what_a_cluster_has_kubectl_for_says_so(args: list[str], sentence: str) -> None:
    with pytest.raises(MeshError) as caught:
        kubectl.require_this_machine(args)
    assert str(caught.value) == f"pymesh {args[0]} is about meshes of this machine; in a cluster: {sentence}"


@pytest.mark.parametrize(
    "args", [[], ["ps"], ["exec", "web", "--", "kubectl", "--context", "x"], ["graph", "--context"]]
)
def test_everything_else_goes_on(args: list[str]) -> None:
    kubectl.require_this_machine(args)


def test_no_cluster_no_library_of_clusters() -> None:
    """They take as long to load as everything else together."""
    code = (
        "import sys, pymesh_controlplane.cli.main; print([m for m in ('lightkube', 'websockets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["status", "check", "shift"])
def test_trouble_is_a_sentence_and_no_traceback(command: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        '{"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}], "current-context": "away", '
        '"users": [{"name": "u", "user": {"token": "s3cret"}}], '
        '"contexts": [{"name": "away", "context": {"cluster": "c", "user": "u"}}]}'
    )
    arguments = ["shop", "--to", "v2"] if command == "shift" else []
    done = subprocess.run(
        [*PYMESH, command, *arguments, "--kubeconfig", str(config)],
        capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    told = done.stdout + done.stderr
    assert "context away: the API server https://127.0.0.1:1 does not answer" in told
    assert "Traceback" not in told
    assert "s3cret" not in told
