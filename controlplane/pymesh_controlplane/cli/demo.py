"""`pymesh demo`: a mesh with the bookinfo sample in it, real traffic, and what the sidecars recorded of it.

Nothing that is shown comes from a script: the journey is joined from the records of the sidecars, the versions are
counted from answers, the identities are what the apps were told.
"""

import json
import re
import shutil
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
import yaml
from rich.console import Console
from rich.text import Text

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.cli import journey, manifests
from pymesh_controlplane.cli.mesh import LocalMesh, check_machine
from pymesh_controlplane.cli.progress import Update, step
from pymesh_controlplane.injector.containers import PROXY
from pymesh_controlplane.local import state

SAMPLE: Final = Path(__file__).resolve().parents[3] / "deploy/samples/bookinfo"
NAMESPACE: Final = "bookinfo"
VISITOR: Final = "visitor"
PAGE: Final = "http://productpage:9080"
JASON_HEADER: Final = "end-user: jason"

# Requests whose answers are counted: enough to see a weight, few enough to take a second or two.
EVERYBODY: Final = 200
JASON: Final = 20
# Seconds; a start takes a few on two cores, and whoever waits wants to know sooner or later.
READY_TIMEOUT: Final = 60.0
ANSWERS_TIMEOUT: Final = 10.0
# Seconds until the last record of a request is written: a sidecar writes it when the last byte has left.
RECORDS_TIMEOUT: Final = 5.0
# Seconds between two looks.
POLL: Final = 0.1

WHAT_TO_TRY: Final = """\
The mesh keeps running. Try:

  {pymesh} ps --mesh {mesh}
  {pymesh} exec --mesh {mesh} -n bookinfo visitor -- curl -s http://productpage:9080/productpage
  {pymesh} exec --mesh {mesh} -n bookinfo productpage-v1 -- curl -s 127.0.0.1:15000/help
  {pymesh} status --mesh {mesh}
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
    kept = False
    with _interrupted_once():
        try:
            tell(mesh, console)
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
        console.print(WHAT_TO_TRY.format(mesh=name, pymesh=_command()))
    else:
        console.print(f"Nothing is left of it. All in all {time.monotonic() - began:.0f} s.")


def _command() -> str:
    """How the person calls `pymesh`: by its name if that is on the PATH, else as this process was called."""
    found = shutil.which("pymesh")
    return "pymesh" if found and Path(found).samefile(sys.argv[0]) else sys.argv[0]


def tell(mesh: LocalMesh, console: Console) -> None:
    """Start the mesh, send the traffic, show what happened.

    Raises:
        MeshError: something did not happen as it should.
    """
    with step(console, "starting a mesh with bookinfo") as update:
        mesh.start(manifests.read([str(SAMPLE)]))
        _until(READY_TIMEOUT, lambda: _waiting(mesh, update))
    pods = [Pod.of_row(row) for row in mesh.rows() if row["namespace"] == NAMESPACE]
    with step(console, "asking for the page, until every part of it is there") as update:
        _until(ANSWERS_TIMEOUT, lambda: _missing_part(mesh, update))
    console.print(_sizes(pods))
    _tell_journey(mesh, console, pods)
    _tell_versions(mesh, console)
    _tell_identities(mesh, console)
    console.print()


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the sample; `sidecar` is the process number of its sidecar, 0 where it has none."""

    name: str
    ip: str
    sidecar: int

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Pod":
        """From a line of `pymesh ps`."""
        return cls(row["name"], row["ip"], row["pids"].get(PROXY, 0))


def _sizes(pods: Sequence[Pod]) -> str:
    """How many pods there are, and what their sidecars take (proc_pid_status(5), VmRSS)."""
    sizes = []
    for pod in pods:
        if pod.sidecar:
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pod.sidecar}/status").read_text())
            sizes.append(int(found[1]) / 1024 if found else 0.0)
    size = " to ".join(dict.fromkeys(f"{size:.0f}" for size in (min(sizes), max(sizes))))
    return f"    {len(pods)} pods, {len(sizes)} of them with a sidecar of {size} MB"


# --- one request ---------------------------------------------------------------------------------------------------


def _tell_journey(mesh: LocalMesh, console: Console, pods: Sequence[Pod]) -> None:
    request_id = str(uuid.uuid4())
    _ask(mesh, "/productpage", f"x-request-id: {request_id}", JASON_HEADER)
    hops: list[journey.Hop] = []

    def incomplete() -> str:
        hops[:] = journey.join(read_records(mesh, pods, request_id))
        return journey.what_is_missing(hops)

    _until(RECORDS_TIMEOUT, incomplete)
    console.print(f"\nOne request of the visitor, who has no sidecar: GET /productpage as jason, {request_id}.")
    console.print("What the sidecars recorded of it (◀ arrives at a pod, ▶ is sent by its app):\n")
    for line in journey.render(hops, {pod.ip: pod.name for pod in pods}):
        console.print(Text.assemble("  ", line))


def read_records(mesh: LocalMesh, pods: Sequence[Pod], request_id: str) -> list[journey.Record]:
    """What the sidecars of `pods` have recorded of one request, from their admin endpoints.

    Raises:
        MeshError: a sidecar does not answer as it should.
    """
    result = []
    for pod in pods:
        if not pod.sidecar:
            continue
        url = f"http://127.0.0.1:{names.PORT_ADMIN}/requests?id={request_id}"
        text = mesh.run(pod.name, NAMESPACE, ["curl", "-sSf", "--max-time", "5", url])
        try:
            result += [journey.Record(pod.name, fields) for fields in json.loads(text)]
        except (ValueError, TypeError) as error:
            raise MeshError(f"the sidecar of {pod.name} answers what is not a list of records: {error}") from None
    return result


# --- many requests -------------------------------------------------------------------------------------------------


def _tell_versions(mesh: LocalMesh, console: Console) -> None:
    console.print(f"\nWhich reviews answer, of {EVERYBODY} more requests and {JASON} as jason:\n")
    wanted = asked_weights(SAMPLE / "routing.yaml")
    for who, count, header in (("everybody", EVERYBODY, ()), ("jason", JASON, (JASON_HEADER,))):
        found = count_versions(mesh, count, *header)
        shares = "  ".join(f"{version} {found[version]:>3} ({found[version] / count:.0%})" for version in sorted(found))
        console.print(
            Text.assemble(f"  {who:<10} {shares:<28} ", (f"VirtualService reviews says {wanted[who]}", "dim"))
        )


def count_versions(mesh: LocalMesh, count: int, *headers: str) -> Counter[str]:
    """Which version of reviews answered how many of `count` requests.

    Raises:
        MeshError: an answer is not a review.
    """
    # One curl, its output not interrupted by anything: an answer a line.
    text = _ask(mesh, f"/api/v1/products/0/reviews?n=[1-{count}]", *headers)
    try:
        versions = Counter(str(json.loads(line)["version"]) for line in text.splitlines() if line)
    except (ValueError, TypeError, KeyError):
        raise MeshError(f"reviews did not answer every request: {text[-300:]}") from None
    if versions.total() != count:
        raise MeshError(f"{versions.total()} answers to {count} requests")
    return versions


def asked_weights(routing: Path) -> Mapping[str, str]:
    """The weights that the VirtualService in `routing` gives to reviews' subsets, by the name of its routes."""
    documents = yaml.safe_load_all(routing.read_text())
    [routes] = [document["spec"]["http"] for document in documents if document["kind"] == "VirtualService"]
    return {
        route["name"]: ", ".join(
            f"{target['destination']['subset']} {target.get('weight', 100)} %" for target in route["route"]
        )
        for route in routes
    }


# --- who is who ----------------------------------------------------------------------------------------------------


def _tell_identities(mesh: LocalMesh, console: Console) -> None:
    console.print("\nWho is calling, as the apps were told by their sidecars (x-forwarded-client-cert):\n")
    for caller, callee, path in (
        ("visitor", "productpage", "/whoami"),
        ("productpage", "details", "/whoami/details"),
        ("productpage", "reviews", "/whoami/reviews"),
    ):
        told = caller_told(_ask(mesh, path))
        who = (told, "cyan") if told else ("nobody in particular: plaintext, no identity", "yellow")
        console.print(Text.assemble(f"  {caller:<11} ▶ {callee:<11} ", who))


def caller_told(answer: str) -> str:
    """The identity in an app's answer to `/whoami`; empty if it was told of none.

    Raises:
        MeshError: the answer is something else.
    """
    try:
        return str(json.loads(answer)["caller"])
    except (ValueError, TypeError, KeyError):
        raise MeshError(f"an app was asked who is calling and said: {answer[:300]!r}") from None


# --- asking and waiting --------------------------------------------------------------------------------------------


def _ask(mesh: LocalMesh, path: str, *headers: str) -> str:
    options = [part for header in headers for part in ("-H", header)]
    return mesh.run(VISITOR, NAMESPACE, ["curl", "-sS", "--max-time", "30", "-w", "\\n", *options, PAGE + path])


def _waiting(mesh: LocalMesh, update: Update) -> str:
    waiting = [str(sentence) for sentence in mesh.client.get("/readyz")["waiting"]]
    if waiting:
        update(f"{len(waiting)} to go: {waiting[0]}")
    return "\n  ".join(waiting)


def _missing_part(mesh: LocalMesh, update: Update) -> str:
    """What is not yet on the page for jason, who sees every service's part of it; empty when it is complete."""
    try:
        page = _ask(mesh, "/productpage", JASON_HEADER)
    except MeshError as error:
        return str(error)
    parts = {"details": "Shakespeare", "reviews": "Reviews (v2)", "ratings": "★"}
    missing = [part for part, sign in parts.items() if sign not in page]
    if missing:
        update(f"{', '.join(missing)} missing")
    return f"{', '.join(missing)} missing on the page:\n{page}" if missing else ""


def _until(timeout: float, missing: Callable[[], str]) -> None:
    """Call `missing` until it says that nothing is.

    Raises:
        MeshError: something still is after `timeout` seconds; the text says what.
    """
    deadline = time.monotonic() + timeout
    while what := missing():
        if time.monotonic() > deadline:
            raise MeshError(f"not within {timeout:.0f} s: {what}")
        time.sleep(POLL)


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
