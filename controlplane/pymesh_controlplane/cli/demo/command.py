"""`pymesh demo`: starts the mesh, plays the acts, removes everything, however it ends."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from pymesh.errors import MeshError
from pymesh_controlplane.cli import manifests
from pymesh_controlplane.cli.demo import acts
from pymesh_controlplane.cli.demo.stage import Stage, program, until
from pymesh_controlplane.cli.demo.traffic import Client
from pymesh_controlplane.cli.mesh import LocalMesh, check_machine
from pymesh_controlplane.cli.progress import Update, step
from pymesh_controlplane.local import gateways, state

SAMPLES: Final = Path(__file__).resolve().parents[4] / "deploy/samples"
SAMPLE: Final = SAMPLES / "bookinfo"
# What else is applied: a web site outside, and the way to it.
EGRESS: Final = SAMPLES / "egress"

# Seconds; a start takes ten on two cores, and whoever waits wants to know sooner or later.
READY_TIMEOUT: Final = 60.0
ANSWERS_TIMEOUT: Final = 10.0

WHAT_TO_TRY: Final = """\
The mesh keeps running. Try:

  curl -s {entrance}/productpage
  {pymesh} requests --mesh {mesh} --last 5
  {pymesh} graph --mesh {mesh}
  {pymesh} shift reviews --mesh {mesh} -n bookinfo --to v1
  {pymesh} ps --mesh {mesh}
  {pymesh} down --mesh {mesh}
"""


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the mesh running, and say what to try.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No colours, no lines that change.")] = False,
    name: Annotated[str, typer.Option("--mesh", help="Name of the mesh.")] = "demo",
) -> None:
    """Start a mesh with the bookinfo sample, send traffic through it, show what happened, and remove all of it."""
    console = Console(highlight=False, soft_wrap=True, force_terminal=False if plain else None, no_color=plain or None)
    mesh = LocalMesh(name)
    check_machine()
    if state.exists(mesh.place):
        raise MeshError(f"there is a mesh {name} already: pymesh down --mesh {name} removes it")
    began = time.monotonic()
    entrance, kept = "", False
    with _interrupted_once():
        try:
            entrance = tell(mesh, console)
            kept = keep
        except KeyboardInterrupt:
            console.print("\ninterrupted")
            raise typer.Exit(130) from None
        except MeshError as error:
            _explain(mesh, console, error)
            raise typer.Exit(1) from None
        finally:
            if not kept:
                _remove(mesh, console)
    if kept:
        console.print("\n" + WHAT_TO_TRY.format(mesh=name, pymesh=program(), entrance=entrance))
    else:
        console.print(f"Nothing is left of it. All in all {time.monotonic() - began:.0f} s.")


def tell(mesh: LocalMesh, console: Console) -> str:
    """Start the mesh and play; where it is entered.

    Raises:
        MeshError: something did not happen as it should.
    """
    with step(console, "starting a mesh with bookinfo") as update:
        mesh.start(manifests.read([str(SAMPLE), str(EGRESS)]))
        until(READY_TIMEOUT, lambda: _waiting(mesh, update))
    stage = Stage(mesh, console, _entrance(mesh))
    with step(console, f"asking {stage.entrance}/productpage, until every part of the page is there") as update:
        until(ANSWERS_TIMEOUT, lambda: _missing_part(stage, update))
    acts.journey(stage)
    acts.blue_green(stage)
    acts.limit(stage, SAMPLE / "limit.yaml")
    acts.outage(stage)
    acts.graph(stage)
    console.print()
    return stage.entrance


def _entrance(mesh: LocalMesh) -> str:
    """Where this machine reaches the ingress gateway's plaintext port.

    Raises:
        MeshError: there is no such port.
    """
    for row in mesh.rows():
        for address, port in row["host_ports"].items():
            if (row["name"], port) == (gateways.GATEWAYS[gateways.INGRESS], gateways.HOST_PORTS[0]):
                return f"http://{address}"
    raise MeshError("the ingress gateway has no port on this machine")


def _waiting(mesh: LocalMesh, update: Update) -> str:
    waiting = [str(sentence) for sentence in mesh.client.get("/readyz")["waiting"]]
    if waiting:
        update(f"{len(waiting)} to go: {waiting[0]}")
    return "\n  ".join(waiting)


def _missing_part(stage: Stage, update: Update) -> str:
    """What is not yet on the page; empty when it is complete."""
    answer = Client(stage.entrance + acts.PAGE).ask()
    if not answer.good:
        return f"the page was answered {answer.status}: {answer.told or answer.body}"
    parts = {"details": "Shakespeare", "reviews": "Reviews (v", "the quote": "Quote of the day: "}
    missing = [part for part, sign in parts.items() if sign not in answer.body]
    if missing:
        update(f"{', '.join(missing)} missing")
    return f"{', '.join(missing)} missing on the page:\n{answer.body}" if missing else ""


# --- the end -------------------------------------------------------------------------------------------------------


def _explain(mesh: LocalMesh, console: Console, error: MeshError) -> None:
    """Say what went wrong, and what the pods have to say about it."""
    console.print(Text.assemble(("\nthe demo failed: ", "bold red"), str(error)))
    try:
        rows = mesh.rows()
    except MeshError:
        return  # there is no supervisor that could tell
    for row in rows:
        if (not row["is_ready"] or row["restarts"]) and row["name"] not in str(error):
            console.print(Text(f"  {row['name']}: {row['status']}, {row['restarts']} restarts  {row['message']}"))


def _remove(mesh: LocalMesh, console: Console) -> None:
    """Remove the mesh, whatever state it is in, and whether or not anybody can still be told of it."""
    try:
        _ignore_interrupts()
        with step(console, "removing the mesh"):
            mesh.down()
    finally:
        mesh.down()


_INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that goes away raise KeyboardInterrupt, the first of them only."""

    def interrupt(*_: object) -> NoReturn:
        _ignore_interrupts()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_interrupts() -> None:
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
