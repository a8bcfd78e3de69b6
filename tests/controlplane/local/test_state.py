"""The state directory: whose it is, and that all of it goes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.local import state
from pymesh_controlplane.local.network import owned_namespaces
from pymesh_controlplane.local.state import State


@pytest.fixture
def place() -> Iterator[State]:
    place = state.named(f"s{os.getpid()}")
    state.destroy(place)
    yield place
    state.destroy(place)


@pytest.mark.parametrize("name", ["", "a-b", "A", "a/b", "x" * 21, "..", "a b"])
def test_names_that_no_mesh_can_have(name: str) -> None:
    with pytest.raises(MeshError, match="cannot be the name of a mesh"):
        state.named(name)


def test_the_directory_is_roots_alone_and_made_once(place: State) -> None:
    state.create(place)
    assert place.root.stat().st_mode & 0o777 == 0o700
    with pytest.raises(MeshError, match="pymesh down --mesh"):
        state.create(place)


def test_there_is_one_supervisor(place: State) -> None:
    state.create(place)
    assert state.supervisor(place) is None
    lock = state.claim(place)
    assert state.supervisor(place) == os.getpid()
    with pytest.raises(MeshError, match="has a supervisor already"):
        state.claim(place)
    os.close(lock)
    # Its number alone does not make another process the supervisor.
    record = json.loads(place.owner.read_text())
    place.owner.write_text(json.dumps({**record, "start_time": record["start_time"] + 1}))
    assert state.supervisor(place) is None
    for garbage in ("", "{}", "[]", '{"pid": "x", "start_time": 1}'):
        place.owner.write_text(garbage)
        assert state.supervisor(place) is None


@pytest.mark.netns
@pytest.mark.parametrize("stubborn", [False, True])
def test_everything_goes_also_with_a_supervisor_that_does_not_listen(place: State, *, stubborn: bool) -> None:
    state.create(place)
    code = "import os, signal, sys, time; from pymesh_controlplane.local import state\n"
    code += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    code += f"state.claim(state.named({place.mesh!r})); print('there', flush=True); time.sleep(60)"
    name = f"pymesh-{place.mesh}-web.default"
    subprocess.run(["ip", "netns", "add", name], check=True)
    with (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as supervisor,
        subprocess.Popen(["ip", "netns", "exec", name, "sleep", "60"]) as pod,
    ):
        assert supervisor.stdout is not None
        supervisor.stdout.readline()
        state.destroy(place, timeout=0.5)
        assert supervisor.wait(5) == (-9 if stubborn else -15)
        assert pod.wait(5) == -9
    assert owned_namespaces(place.mesh) == []
    assert not place.root.exists()
    assert not state.exists(place)
