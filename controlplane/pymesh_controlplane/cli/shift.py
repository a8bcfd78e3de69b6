"""What `pymesh shift` does, and what it tells meanwhile."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import typer
from rich.console import Console
from rich.text import Text as Line

from pymesh.errors import MeshError
from pymesh.resources.fields import seconds
from pymesh_controlplane.cli import guard, output, target
from pymesh_controlplane.cli.client import Changed
from pymesh_controlplane.cli.guard import shown
from pymesh_controlplane.cli.output import Format
from pymesh_controlplane.cli.rollout import InterruptedByPersonError, Manner, Rollout, Seen, Signals
from pymesh_controlplane.cli.shifting import KINDS, Shift, prepare, steps
from pymesh_controlplane.local.texts import Text, as_text
from pymesh_controlplane.wording import listed, near

# Seconds: shorter than proxies report, and longer than anyone watches.
_SHORTEST: Final = 1.0
_LONGEST: Final = 3600.0
_INTERRUPTED: Final = 130
_NOTHING: Final = "nothing was changed"

_PERCENT: Final = re.compile(r"(\d{1,3})%?")


def run(  # noqa: PLR0917  as many as the command has options
    service: str,
    to: str,
    step: str,
    every: str,
    guard_text: str,
    dry_run: bool,
    where: tuple[str, str, str],
    namespace: str,
    output_format: Format,
) -> None:
    """What `shift_command.shift` does, with its options; `where`: mesh, context, kubeconfig."""
    percent, length = _step(step), _length(every)
    rules = guard.parse(guard_text) if guard_text else ()
    with target.opened(*where) as found:
        namespace = namespace or found.namespace
        objects = found.objects(KINDS)
        _require_namespace(found, objects, namespace)
        plan = prepare(objects, service, namespace, to)
        told = Told(plan, output_format)
        shares = steps(plan.share, percent) if plan.places else []
        told.plan(shares)
        if rules:
            _require_collector(found, plan, namespace)
        if dry_run:
            _validate(found, plan, shares)
            told.end("dry run", _NOTHING, [Seen(share, length, {}) for share in shares])
        elif not plan.places:
            told.end("shifted", f"{plan.service} goes to {to} already: nothing to do")
        else:
            _require_pilot(found)
            _carry_out(found, plan, namespace, Manner(shares, length, rules), told)


class Told:
    """Says how a shift goes: a line for each step as it happens, or for programs one document at the end."""

    def __init__(self, plan: Shift, output_format: Format) -> None:
        self._plan = plan
        self._format = output_format
        # Programs read standard output; what happens meanwhile is told to the person beside it.
        self._console = Console(stderr=output_format is not Format.table, highlight=False)
        self._seen: list[Seen] = []

    def plan(self, shares: list[int]) -> None:
        """What is about to be done."""
        plan = self._plan
        if plan.made is not None:
            self._print(f"{plan.made} is made: no VirtualService has a route to {plan.service} yet")
        for place in plan.places:
            already = f", {place.share}% goes there already" if place.share else ""
            self._print(f"{place}: shifted to {plan.subset}{already}")
        for place in plan.pinned:
            self._print(f"{place}: left alone, it is for some callers only")
        if shares:
            self._print(f"steps: {' '.join(f'{share}%' for share in shares)}")

    @contextlib.contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        """Show what is waited for, where there is a terminal that can forget it again."""
        if not self._console.is_terminal:
            yield lambda _: None
            return
        with self._console.status("") as status:
            yield lambda text: status.update(Line(text, "dim"))

    def step(self, seen: Seen) -> None:
        """A step is over."""
        self._seen.append(seen)
        names = [*(name for name in seen.subsets if name != self._plan.subset), self._plan.subset]
        figures = [_figures(name, seen.subsets[name], seen.seconds) for name in names if name in seen.subsets]
        self._print(f"{f'{seen.share}%':>5}  {'   '.join(figures) or 'no figures: nobody has reported a request'}")

    def end(self, outcome: str, why: str, planned: Sequence[Seen] = ()) -> None:
        """The end, whatever it is. Of a dry run the steps are those `planned`, of which nobody has figures."""
        style = {"shifted": "green", "dry run": ""}.get(outcome, "red")
        self._console.print(Line.assemble((outcome, style), f": {why}"), soft_wrap=True)
        plan = self._plan
        document = {
            "outcome": outcome,
            "reason": why,
            "service": plan.service,
            "to": plan.subset,
            "routes": [str(place) for place in plan.places],
            "steps": [
                {"share": seen.share, "seconds": seen.seconds, "subsets": seen.subsets}
                for seen in planned or self._seen
            ],
        }
        if self._format is not Format.table:
            output.show(Console(highlight=False), self._format, document, (), ())

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)


def _figures(name: str, numbers: Mapping[str, Any], length: float) -> str:
    rate = numbers["requests"] / length
    return f"{name}  {rate:.1f}/s  errors {shown('errors', numbers['errors'])}  p99 {shown('p99', numbers['p99_ms'])}"


def _carry_out(mesh: target.Mesh, plan: Shift, namespace: str, manner: Manner, told: Told) -> None:
    with Signals() as signals, told.status() as update:
        rollout = Rollout(mesh, plan, namespace, manner, signals.pause, update, told.step)
        try:
            rollout.run()
        except Changed as error:
            told.end("stopped", str(error))
            raise typer.Exit(1) from None
        except MeshError as error:
            update("going back")
            back = _went_back(rollout, signals)
            told.end("stopped" if back == _NOTHING else "went back", f"{error}; {back}")
            raise typer.Exit(_INTERRUPTED if isinstance(error, InterruptedByPersonError) else 1) from None
        except BaseException:  # nobody reads any more how it goes, or a fault of ours: never stop halfway
            _went_back(rollout, signals)
            raise
    told.end("shifted", f"{plan.service} goes to {plan.subset}")


def _went_back(rollout: Rollout, signals: Signals) -> str:
    signals.ignore()  # nothing interrupts the way back; it is bounded in time
    try:
        changed = rollout.go_back()
    except MeshError as error:
        return f"what was before is asked for again, but {error}"
    return "everything is as it was before" if changed else _NOTHING


def _require_namespace(mesh: target.Mesh, objects: Sequence[Mapping[str, Any]], namespace: str) -> None:
    """Look whether a namespace is there that none of `objects` is in."""
    if any(item["metadata"].get("namespace") == namespace for item in objects):
        return
    try:
        known = [item["metadata"]["name"] for item in mesh.objects({"Namespace"})]
    except MeshError:
        return  # who may not see them is told that there is no such Service
    if known and namespace not in known:
        raise MeshError(f"there is no namespace {namespace}; there are {listed(known)}{near(namespace, known)}")


def _require_pilot(mesh: target.Mesh) -> None:
    try:
        mesh.pilots()
    except MeshError as error:
        raise MeshError(f"{_NOTHING}, for nobody would put it in force: {error}") from None


def _require_collector(mesh: target.Mesh, plan: Shift, namespace: str) -> None:
    try:
        mesh.telemetry("stats", {"service": plan.service, "namespace": namespace, "window": 1})
    except MeshError as error:
        raise MeshError(f"a guard needs the collector's figures: {error}") from None


def _validate(mesh: target.Mesh, plan: Shift, shares: list[int]) -> None:
    documents = plan.at(shares[-1]) if shares else {}
    texts = [Text(f"pymesh shift: {key}", "/", as_text(document)) for key, document in documents.items()]
    errors = [problem["text"] for problem in mesh.validate(texts, "default") if problem["severity"] == "error"]
    if errors:
        raise MeshError("\n".join(errors))


def _step(text: str) -> int | None:
    if not text:
        return None
    found = _PERCENT.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= 100:
        raise MeshError(f"--step {text!r}: a step is a share between 1% and 100%, as in 10%")
    return int(found[1])


def _length(text: str) -> float:
    try:
        length = seconds(text)
    except ValueError as error:
        raise MeshError(f"--every: {error}") from None
    if not _SHORTEST <= length <= _LONGEST:
        raise MeshError(f"--every {text}: between {_SHORTEST:g}s and {_LONGEST / 60:g}m")
    return length
