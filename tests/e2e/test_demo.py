"""`pymesh demo`: what it prints is what the sidecars say, and nothing is left of it, however it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from pymesh_controlplane.cli import journey
from pymesh_controlplane.cli.demo import EVERYBODY, JASON, NAMESPACE, Pod, read_records
from pymesh_controlplane.cli.mesh import LocalMesh
from pymesh_controlplane.local.network import NAMESPACES

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

MESH = "demotest"
COMMAND = [str(Path(sys.executable).with_name("pymesh")), "demo", "--mesh", MESH]
# Seconds: what the demo promises on two cores.
PROMISE = 90
SPIFFE = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-"


@pytest.fixture(autouse=True)
def gone() -> Iterator[None]:
    LocalMesh(MESH).down()
    yield
    LocalMesh(MESH).down()


def leftovers() -> list[str]:
    """Everything on this machine that bears the mesh's name."""
    found = [f"namespace {path.name}" for path in NAMESPACES.glob(f"pymesh-{MESH}*")]
    found += [f"state {path}" for path in [LocalMesh(MESH).place.root] if path.exists()]
    found += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f"/{MESH}" in line]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if MESH.encode() in words and path.parent.name != str(os.getpid()):
            found.append(f"process {b' '.join(words).decode()}")
    return found


def test_what_is_told_is_what_was_recorded() -> None:
    done = subprocess.run([*COMMAND, "--keep"], capture_output=True, text=True, timeout=PROMISE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout  # plain in a pipe
    mesh = LocalMesh(MESH)
    pods = [Pod.of_row(row) for row in mesh.rows() if row["namespace"] == NAMESPACE]
    assert len(pods) == 7

    # The journey is what the sidecars still say of that request, line by line.
    request_id = re.search(r"as jason, ([0-9a-f-]{36})", done.stdout)
    assert request_id
    records = read_records(mesh, pods, request_id[1])
    hops = journey.join(records)
    lines = [f"  {line.plain}" for line in journey.render(hops, {pod.ip: pod.name for pod in pods})]
    assert "\n".join(lines) in done.stdout
    # productpage asked by the visitor, asks details and reviews v2, which asks ratings: seven records, one tree.
    assert [(record["method"], record["path"], record["status"]) for record in journey.flatten(hops)] == [
        ("GET", path, "200")
        for path in ("/productpage", "/details/0", "/details/0", "/reviews/0", "/reviews/0", "/ratings/0", "/ratings/0")
    ]
    assert journey.what_is_missing(hops) == ""
    # Independently of the tree: each side of a connection names the other's identity.
    inbound = {record["path"]: record for record in records if record.inbound}
    outbound = {record["path"]: record for record in records if not record.inbound}
    assert inbound["/productpage"]["peer"] == ""
    for path, caller, callee in (
        ("/details/0", "productpage", "details"),
        ("/reviews/0", "productpage", "reviews"),
        ("/ratings/0", "reviews", "ratings"),
    ):
        assert inbound[path]["peer"] == f"{SPIFFE}{caller}"
        assert outbound[path]["upstream_peer"] == f"{SPIFFE}{callee}"
        assert outbound[path]["upstream_local"] == inbound[path]["downstream_remote"]
    assert "reviews" in outbound["/reviews/0"]["route_source"]
    assert outbound["/reviews/0"]["cluster"] == "outbound|9080|v2|reviews.bookinfo.svc.cluster.local"
    # The apps saw the same request.
    for app in ("productpage-v1", "reviews-v2", "ratings-v1"):
        pod = mesh.find_pod(app, NAMESPACE)
        log = mesh.place.pods / NAMESPACE / pod["name"] / "logs" / f"{app.split('-')[0]}.log"
        assert f"id={request_id[1]}" in log.read_text()

    # The shares are near what was asked for (200 at 80:20: five standard deviations), and all of jason's are v2.
    everybody = dict(re.findall(r"(v\d) +(\d+) \(", re.search(r"everybody .*", done.stdout)[0]))  # type: ignore[index]
    assert sum(map(int, everybody.values())) == EVERYBODY
    assert everybody.keys() == {"v1", "v3"}
    assert abs(int(everybody["v3"]) - 40) < 29
    assert re.search(rf"jason +v2 +{JASON} \(100%\)", done.stdout)
    assert re.search(r"visitor +▶ productpage +nobody in particular", done.stdout)
    assert re.search(rf"productpage +▶ reviews +{SPIFFE}productpage", done.stdout)

    # What it says can be tried can be tried; the last of it removes the mesh.
    tries = re.findall(r"^  (\S*pymesh .*)$", done.stdout, re.MULTILINE)
    assert len(tries) >= 4
    for line in tries:
        tried = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert tried.returncode == 0, f"{line}\n{tried.stdout}{tried.stderr}"
    assert leftovers() == []


@pytest.mark.parametrize(
    ("moment", "number"), [("… starting", signal.SIGINT), ("✓ starting", signal.SIGTERM), ("◀", signal.SIGHUP)]
)
def test_interrupted_at_any_moment_it_leaves_nothing(moment: str, number: signal.Signals) -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=unbuffered()) as demo:
        try:
            assert demo.stdout is not None
            wait_for(moment, demo.stdout)
            demo.send_signal(number)
            demo.send_signal(number)  # an impatient person
            out, err = demo.communicate(timeout=60)
        finally:
            demo.kill()
    assert demo.returncode == 130, out + err
    assert "removing the mesh" in out
    assert "Traceback" not in err
    assert leftovers() == []


def test_a_reader_that_goes_away_leaves_nothing_behind() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as demo:
        try:
            assert demo.stdout is not None
            demo.stdout.readline()
            demo.stdout.close()
            assert demo.wait(60) != 0
        finally:
            demo.kill()
    assert leftovers() == []


def test_without_being_asked_to_keep_it_nothing_is_left() -> None:
    done = subprocess.run([*COMMAND, "--plain"], capture_output=True, text=True, timeout=PROMISE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is left of it" in done.stdout
    assert leftovers() == []


def test_a_failure_is_explained_and_cleaned_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A sample whose apps are not there: the pods crash, and the demo says which and why.
    sample = tmp_path / "sample"
    code = f"""
import sys
from pathlib import Path
from pymesh_controlplane.cli import demo, main
demo.SAMPLE = Path({str(sample)!r})
demo.READY_TIMEOUT = 5.0
sys.argv = ["pymesh", *{COMMAND[1:]!r}]
main.main()
"""
    source = Path(__file__).parents[2] / "deploy/samples/bookinfo"
    sample.mkdir()
    for file in source.glob("*.yaml"):
        (sample / file.name).write_text(file.read_text())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PROMISE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the demo failed" in done.stdout
    assert "ratings" in done.stdout
    assert "exited with code 2" in done.stdout
    assert "Traceback" not in done.stderr
    assert leftovers() == []


def test_a_mesh_that_is_there_is_not_touched() -> None:
    mesh = LocalMesh(MESH)
    mesh.start([])
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=PROMISE)
    assert done.returncode == 1
    assert f"pymesh down --mesh {MESH}" in done.stderr
    assert mesh.rows()


def unbuffered() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def wait_for(text: str, stream: IO[str]) -> None:
    seen = ""
    for line in stream:
        seen += line
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}:\n{seen}")
