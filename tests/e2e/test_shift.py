"""Blue-green in a running mesh under 200 requests a second: nothing is lost, and what fails or dawdles goes back."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pymesh_controlplane.cli.mesh import LocalMesh
from tests.support.mesh import PYMESH, Mesh
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]

RATE = 200  # requests a second
# Seconds in which a version that fails must be gone again: reports come every second, two looks, a push.
SOON = 10


class Answer(NamedTuple):
    """What became of a request: when it was due, its status (0: lost), what was answered, how long it took."""

    due: float
    status: int
    said: str
    seconds: float


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    manifest = Path(__file__).parent / "manifests" / "versions.yaml"
    with Mesh("shift", manifest, without="policy,ingress,egress") as running:
        yield running


@pytest.fixture(autouse=True)
def at_the_start(mesh: Mesh) -> Iterator[None]:
    """Every test begins with all requests at v1, and with a v2 that is well."""
    yield
    become(mesh, "status=200&delay=0")
    mesh.run("apply", "-f", str(Path(__file__).parent / "manifests" / "versions.yaml"))


def become(mesh: Mesh, how: str) -> None:
    mesh.exec("shop-v2", "curl", "-sS", f"http://127.0.0.1:8080/become?{how}")


@contextmanager
def load(mesh: Mesh) -> Iterator[list[Answer]]:
    """Requests from the client's pod while the block runs; what became of them is there afterwards."""
    answers: list[Answer] = []
    command = [PYMESH, "exec", "--mesh", mesh.name, "client", "--", "python3", "load.py", "http://shop/", str(RATE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually_sync(lambda: requests(mesh, "v1") > RATE, what="the first requests to be counted", timeout=20)
            yield answers
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        answers += [Answer(*json.loads(line)) for line in out.splitlines()]


def stats(mesh: Mesh) -> dict[str, Any]:
    """What the collector has counted of the last seconds, by subset."""
    page = "/telemetry/stats?service=shop&namespace=default&window=5"
    found: dict[str, Any] = LocalMesh(mesh.name).client.get(page)["subsets"]
    return found


def requests(mesh: Mesh, subset: str) -> int:
    return int(stats(mesh).get(subset, {}).get("requests", 0))


def shift(mesh: Mesh, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report."""
    done = mesh.run("shift", "shop", "-o", "json", *arguments, check=False)
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report


def versions(answers: list[Answer]) -> Counter[str]:
    return Counter(answer.said for answer in answers)


def weights(mesh: Mesh) -> list[int]:
    document = json.loads(mesh.run("get", "vs", "shop", "-o", "json").stdout)
    return [item.get("weight", 0) for item in document["spec"]["http"][0]["route"]]


def test_a_dry_run_tells_the_steps_and_changes_nothing(mesh: Mesh) -> None:
    before = weights(mesh)
    status, report = shift(mesh, "--to", "v2", "--step", "50%", "--dry-run")
    assert (status, report["outcome"], [step["share"] for step in report["steps"]]) == (0, "dry run", [50, 100])
    assert weights(mesh) == before


def test_a_switch_in_steps_and_back_at_once_loses_no_request(mesh: Mesh) -> None:
    with load(mesh) as answers:
        guard = "errors<1%,p99<2s"
        status, report = shift(mesh, "--to", "v2", "--step", "50%", "--every", "3s", "--guard", guard)
        assert (status, report["outcome"], [step["share"] for step in report["steps"]]) == (0, "shifted", [50, 100])
        half, whole = (step["subsets"]["v2"] for step in report["steps"])
        assert half["failed"] == whole["failed"] == 0
        assert weights(mesh) == [0, 100]
        status, report = shift(mesh, "--to", "v1", "--every", "1s")
        assert (status, report["outcome"]) == (0, "shifted")
    assert {answer.status for answer in answers} == {200}, Counter(a.said for a in answers if a.status != 200)
    assert set(versions(answers)) == {"v1", "v2"}
    assert weights(mesh) == [100, 0]


def test_a_version_that_fails_is_taken_back_within_seconds(mesh: Mesh) -> None:
    become(mesh, "status=500")
    before = json.loads(mesh.run("get", "vs", "shop", "-o", "json").stdout)
    with load(mesh) as answers:
        status, report = shift(mesh, "--to", "v2", "--step", "20%", "--every", "30s", "--guard", "errors<1%")
    assert (status, report["outcome"]) == (1, "went back")
    assert report["reason"].startswith("v2 has errors 100%, and the guard says errors<1%; everything is as it was")
    assert json.loads(mesh.run("get", "vs", "shop", "-o", "json").stdout) == before
    failed = [answer for answer in answers if answer.status != 200]
    assert {answer.status for answer in failed} == {500}
    assert failed[-1].due - failed[0].due < SOON
    # A fifth of the requests of those seconds, and no more.
    assert len(failed) < 0.2 * RATE * SOON
    assert answers[-1].said == "v1"


def test_a_version_that_dawdles_is_taken_back(mesh: Mesh) -> None:
    become(mesh, "delay=0.4")
    with load(mesh) as answers:
        status, report = shift(mesh, "--to", "v2", "--step", "10%", "--every", "30s", "--guard", "p99<250ms")
    assert (status, report["outcome"]) == (1, "went back")
    assert report["reason"].startswith("v2 has p99 4")
    assert report["reason"].endswith("and the guard says p99<250ms; everything is as it was before")
    assert {answer.status for answer in answers} == {200}
    assert weights(mesh) == [0]


def test_ctrl_c_takes_it_back_and_what_somebody_else_changed_is_left(mesh: Mesh) -> None:
    command = [PYMESH, "shift", "shop", "--mesh", mesh.name, "--to", "v2", "--step", "30%", "--every", "1h"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        eventually_sync(lambda: weights(mesh) == [70, 30], what="the first step")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.endswith("went back: interrupted; everything is as it was before\n")
    assert weights(mesh) == [0]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        eventually_sync(lambda: weights(mesh) == [70, 30], what="the first step")
        theirs = mesh.run("get", "vs", "shop", "-o", "json").stdout.replace('"weight": 30', '"weight": 40')
        mesh.apply(theirs)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "VirtualService default/shop was changed by somebody else; it stays as they left it" in out
    assert weights(mesh) == [70, 40]


def test_a_reader_that_goes_away_takes_it_back(mesh: Mesh) -> None:
    command = [PYMESH, "shift", "shop", "--mesh", mesh.name, "--to", "v2", "--step", "30%", "--every", "1s"]
    before = weights(mesh)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
    assert weights(mesh) == before


def test_a_lost_collector_is_no_reason_to_go_on(mesh: Mesh) -> None:
    command = [PYMESH, "shift", "shop", "--mesh", mesh.name, "--to", "v2", "--every", "1s", "--guard", "errors<1%"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        eventually_sync(lambda: weights(mesh) == [0, 100], what="the step")
        mesh.run("delete", "pod", "telemetry", "-n", "pymesh-system")
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "went back: the collector is lost, and nobody watches v2: " in out
    assert weights(mesh) == [0]
    (away,) = json.loads(mesh.run("status", "-o", "json").stdout)["away"]
    assert (away["service"], away["why"]) == ("telemetry.pymesh-system", "none of its pods is ready")
    assert f"telemetry.pymesh-system is away since {away['since']}: " in mesh.run("status").stdout
    refused = mesh.run("shift", "shop", "--to", "v2", "--guard", "errors<1%", check=False)
    assert refused.returncode == 1
    assert "a guard needs the collector's figures: this mesh runs without telemetry" in refused.stderr
