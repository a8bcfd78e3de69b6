"""The acts of the demo, each a few lines of text about something that happens while they are written.

Nothing that is shown comes from a script: answers are counted as they come, the journey and the graph are what the
proxies reported, and every command is one that the person could have typed.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.cli.demo import traffic
from pymesh_controlplane.cli.demo.stage import NAMESPACE, Stage, until
from pymesh_controlplane.cli.demo.traffic import Answer, Traffic, burst, counted

# What visitors ask for: the reviews of a book, as JSON with the version that wrote it; and the page with all parts.
REVIEWS: Final = "/api/v1/products/0/reviews"
PAGE: Final = "/productpage/quoted"

# Requests a second while something is changed: enough to see a second's share, little enough for a small machine.
RATE: Final = 40.0
# The switch: in how many steps, and what must hold meanwhile.
STEP: Final = "25%"
EVERY: Final = "2s"
GUARD: Final = "errors<1%,p99<2s"
# How often the answers of the switch are counted, seconds, and how wide a line of them is.
SLICE: Final = 1.0
WIDTH: Final = 40
# Clients at once where only LIMIT may be (deploy/samples/bookinfo/limit.yaml), and requests of each.
CLIENTS: Final = 40
EACH: Final = 5
# Seconds of traffic before the policy service is killed, and after it is back.
BEFORE: Final = 1.0
AFTER: Final = 1.0
# Seconds until what was reported is at the collector; sidecars send once a second.
REPORTED: Final = 5.0
# Seconds for a killed pod to be back; it takes one or two.
BACK: Final = 30.0


def journey(stage: Stage) -> None:
    """One request from outside, and where it went."""
    stage.heading("The journey of one request: in by one gateway, through the pods, out by the other")
    answer = traffic.Client(stage.entrance + PAGE).ask()
    if not answer.good:
        raise MeshError(f"{PAGE} was answered {answer.status}: {answer.told or answer.body}")
    stage.say(f"GET {stage.entrance}{PAGE}: {answer.status} in {answer.seconds * 1000:.0f} ms, told by the mesh as\n")
    found: list[str] = []

    def reported() -> str:
        records = stage.mesh.client.get("/telemetry/requests?once=1&last=50&to=productpage")
        found[:] = [record["request_id"] for record in records if record["path"] == PAGE]
        return "" if found else "the collector has no record of it"

    until(REPORTED, reported)
    stage.command("journey", found[-1])


def blue_green(stage: Stage) -> None:
    """A version replaced under traffic."""
    stage.heading(f"Blue-green: reviews goes over to v2 while {RATE:.0f} requests a second come in")
    with Traffic(stage.entrance + REVIEWS, RATE) as visitors:
        stage.command(
            "shift", "reviews", "-n", NAMESPACE, "--to", "v2", "--step", STEP, "--every", EVERY, "--guard", GUARD
        )
        time.sleep(SLICE)
    stage.say(f"\n  What the visitors got meanwhile: a line a second, {WIDTH} digits, each the version that answered\n")
    for number, answers in enumerate(traffic.by_time(visitors.answers, SLICE)):
        stage.say(f"  {number:>3} s  ", *_bar(answers))
    failed = [answer for answer in visitors.answers if not answer.good]
    stage.say(f"\n  {len(visitors.answers)} requests, ", _errors(failed))


def _bar(answers: Sequence[Answer]) -> list[str | tuple[str, str]]:
    colours = {"v1": "blue", "v2": "green", "v3": "magenta"}
    parts = traffic.shares(answers, lambda answer: answer.version or f"({answer.status})", WIDTH)
    bar: list[str | tuple[str, str]] = [(name[-1] * width, colours.get(name, "red")) for name, width in parts]
    return [*bar, f"  {len(answers)} answers"]


def _errors(failed: Sequence[Answer]) -> tuple[str, str]:
    if not failed:
        return ("not one of them failed", "green")
    return (f"{len(failed)} failed: {counted(failed)} {failed[0].told}", "red")


def limit(stage: Stage, rule: Path) -> None:
    """More at once than the rule allows."""
    stage.heading(f"A limit: {CLIENTS} clients at once, where this is in force")
    for line in rule.read_text().splitlines():
        if line and not line.startswith("#"):
            stage.say(("  " + line, "dim"))
    answers = burst(stage.entrance + REVIEWS, CLIENTS, EACH)
    refused = [answer for answer in answers if answer.status == 429]
    stage.say(f"\n  {len(answers)} requests: {counted(answers)}")
    if refused:
        stage.say("  a refusal says: ", (refused[0].told, "yellow"))


def outage(stage: Stage) -> None:
    """The policy service killed under traffic."""
    stage.heading("The policy service dies; the limit stays, traffic goes on")
    with Traffic(stage.entrance + REVIEWS, RATE) as visitors:
        time.sleep(BEFORE)
        before = _policy(stage)
        for pid in before["pids"].values():
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        stage.say(f"  kill -9 {', '.join(str(pid) for pid in before['pids'].values())}  # the policy service")
        until(BACK, lambda: "" if _is_back(stage, before["restarts"]) else "the policy service is not back")
        back = time.monotonic()
        time.sleep(AFTER)
    away = [answer for answer in visitors.answers if killed <= answer.at <= back]
    failed = [answer for answer in visitors.answers if not answer.good]
    stage.say(f"  it was away for {back - killed:.1f} s; meanwhile {len(away)} requests came in: {counted(away)}")
    stage.say(f"  all in all {len(visitors.answers)}, ", _errors(failed))


def _policy(stage: Stage) -> dict[str, Any]:
    wanted = (names.SYSTEM_NAMESPACE, "policy")
    return next(row for row in stage.mesh.rows() if (row["namespace"], row["owner"]) == wanted)


def _is_back(stage: Stage, restarts: object) -> bool:
    row = _policy(stage)
    return bool(row["is_ready"]) and row["restarts"] != restarts


def graph(stage: Stage) -> None:
    """Who has talked to whom."""
    stage.heading("Who talks to whom")
    stage.command("graph", "-n", NAMESPACE, "--window", "60s")
