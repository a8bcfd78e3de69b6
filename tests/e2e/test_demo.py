"""`pymesh demo`: what it prints is what happened, and nothing is left of it, however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from pymesh_controlplane.cli.demo.acts import CLIENTS, EACH
from pymesh_controlplane.cli.demo.stage import NAMESPACE
from pymesh_controlplane.cli.mesh import LocalMesh
from pymesh_controlplane.local.network import NAMESPACES

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]

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


def test_what_is_told_is_what_happened() -> None:
    done = subprocess.run([*COMMAND, "--keep"], capture_output=True, text=True, timeout=PROMISE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout  # plain in a pipe
    mesh = LocalMesh(MESH)
    told = done.stdout
    check_journey(told)
    check_switch(told)
    check_limit(told)
    check_outage(told, mesh)
    check_graph(told)

    # What it says can be tried can be tried; the last of it removes the mesh.
    tries = re.findall(r"^  ((?:curl|\S*pymesh) .*)$", told.partition("Try:")[2], re.MULTILINE)
    assert len(tries) == 6
    for line in tries:
        tried = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert tried.returncode == 0, f"{line}\n{tried.stdout}{tried.stderr}"
    assert leftovers() == []


def pymesh(command: str, *arguments: str) -> str:
    """What `pymesh` prints."""
    return subprocess.run(
        [COMMAND[0], command, "--mesh", MESH, *arguments], capture_output=True, text=True, check=True
    ).stdout


def check_journey(told: str) -> None:
    """Every hop is one that the proxies recorded, in at one gateway and out at the other, with the policy's answer."""
    request_id = re.search(r"pymesh journey ([0-9a-f-]{36})", told)
    assert request_id
    for line in pymesh("journey", request_id[1]).splitlines():
        assert line.rstrip() in told
    [root] = json.loads(pymesh("journey", request_id[1], "-o", "json"))["hops"]
    assert root["original_destination"] == ""  # a gateway: nothing was redirected
    [arrival] = root["then"]
    assert arrival["peer"] == "spiffe://cluster.local/ns/pymesh-system/sa/ingressgateway"
    assert arrival["notes"]["policy"].startswith("ConcurrencyLimit bookinfo/productpage: slot ")
    sent = {hop["authority"]: hop for hop in arrival["then"]}
    assert sent.keys() == {"details:9080", "reviews:9080", "quotes.example.com"}
    for app in ("details", "reviews"):
        [received] = sent[f"{app}:9080"]["then"]
        # Each side of a connection names the other's identity.
        assert sent[f"{app}:9080"]["upstream_peer"] == f"{SPIFFE}{app}"
        assert received["peer"] == f"{SPIFFE}productpage"
    [out] = sent["quotes.example.com"]["then"]
    assert (out["original_destination"], out["peer"], out["status"]) == ("", f"{SPIFFE}productpage", 200)


def check_switch(told: str) -> None:
    """Answers of v1 and v3 before, of v2 only afterwards, and none failed; so the VirtualService says, too."""
    seconds = re.findall(r"^ +\d+ s  ([123(]\S*)", told, re.MULTILINE)
    assert "1" in seconds[0]
    assert set(seconds[-1]) == {"2"}
    assert re.search(r"(\d+) requests, not one of them failed", told)
    rule = json.loads(pymesh("get", "virtualservice", "reviews", "-n", NAMESPACE, "-o", "json"))
    everybody = next(route for route in rule["spec"]["http"] if route["name"] == "everybody")
    weights = {target["destination"]["subset"]: target.get("weight", 100) for target in everybody["route"]}
    assert {subset for subset, weight in weights.items() if weight} == {"v2"}


def check_limit(told: str) -> None:
    """Some were let in, the rest was told why not."""
    counts = re.search(rf"{CLIENTS * EACH} requests: (.*)", told)
    assert counts
    assert set(re.findall(r"with (\d+)", counts[1])) == {"200", "429"}
    assert "ConcurrencyLimit bookinfo/productpage" in told.partition("a refusal says: ")[2].partition("\n")[0]


def check_outage(told: str, mesh: LocalMesh) -> None:
    """The policy service was killed and is back, and nobody noticed."""
    killed = re.search(r"kill -9 (\d+)", told)
    assert killed
    row = next(row for row in mesh.rows() if row["name"] == "policy")
    assert row["restarts"] == 1
    assert int(killed[1]) not in row["pids"].values()
    assert re.search(r"meanwhile \d+ requests came in: \d+ with 200$", told, re.MULTILINE)
    assert len(re.findall("not one of them failed", told)) == 2


def check_graph(told: str) -> None:
    """Everybody who talked is there, all of it under mTLS."""
    table = told.partition("$ pymesh graph")[2]
    for source, destination in (
        ("ingressgateway", "productpage"), ("productpage", "reviews"), ("reviews-v2", "ratings"),
        ("productpage", "egressgateway"),
    ):  # fmt: skip
        assert re.search(rf"^ +{source}\S* +{destination}.* 100%$", table, re.MULTILINE), table


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


def test_a_failure_is_explained_and_cleaned_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A sample whose apps are not there: the pods crash, and the demo says which and why.
    sample = tmp_path / "sample"
    code = f"""
import sys
from pathlib import Path
from pymesh_controlplane.cli import main
from pymesh_controlplane.cli.demo import command
command.SAMPLE = Path({str(sample)!r})
command.READY_TIMEOUT = 10.0
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
