"""A shift under way: one step after the other, each judged before the next, and back again when it goes wrong.

Every change is made from what this process has last put in force, and is refused if somebody else has changed that
meanwhile; then it stays as they left it. What a signal interrupts is gone back on, at the next moment between two
questions. Only SIGKILL leaves a shift where it was.
"""

import math
import signal
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, NamedTuple, Self

from pymesh.errors import MeshError
from pymesh.resources.parse import reread
from pymesh.resources.resource import Key, Positions
from pymesh_controlplane.cli import guard
from pymesh_controlplane.cli.client import Changed
from pymesh_controlplane.cli.mesh import Expected
from pymesh_controlplane.cli.shifting import Document, Shift
from pymesh_controlplane.cli.target import Mesh
from pymesh_controlplane.wording import listed

# Seconds between two looks at the collector, and at what proxies have acknowledged.
LOOK: Final = 0.5
_POLL: Final = 0.1
# Seconds until every proxy must have taken a step; a push takes a tenth of one.
ACK_TIMEOUT: Final = 30.0
# Seconds after a step whose reports still tell of requests before it: proxies report every second. The collector counts
# in whole seconds, so up to one of before is counted too: of the new version as well, only fewer requests.
SETTLE: Final = 1.0
# Seconds beyond the time of a step that is waited for enough requests to judge it.
PATIENCE: Final = 30.0
# Seconds that the collector may be without an answer: a restart takes some, and then counts anew.
COLLECTOR_PATIENCE: Final = 5.0

_NOTHING: Final[guard.Numbers] = {"requests": 0, "failed": 0, "errors": 0.0, "p50_ms": None, "p99_ms": None}


class StepError(MeshError):
    """A step went wrong, and the text says how: back to where the shift began."""


class InterruptedByPersonError(StepError):
    """Ctrl-C, or another signal that asks to end."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How a step went: its share, and the numbers of each subset in the last so many seconds of it."""

    share: int
    seconds: float
    subsets: Mapping[str, guard.Numbers]


class Signals:
    """SIGINT, SIGTERM and SIGHUP as something to look at, while the `with` block runs."""

    _ALL: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._name = ""

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._take) for number in self._ALL}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        self._name = self._name or signal.Signals(number).name

    def ignore(self) -> None:
        """Take no notice any more of what came and of what will come."""
        for number in self._ALL:
            signal.signal(number, signal.SIG_IGN)
        self._name = ""

    def pause(self, seconds: float) -> None:
        """Sleep.

        Raises:
            InterruptedByPersonError: one of the signals has come.
        """
        time.sleep(seconds)
        if self._name:
            raise InterruptedByPersonError("interrupted" if self._name == "SIGINT" else f"ended by {self._name}")


class Manner(NamedTuple):
    """How a shift is carried out: in which shares (percent), each watched for `every` seconds, by which rules."""

    shares: Sequence[int]
    every: float
    rules: tuple[guard.Rule, ...]


@dataclass(slots=True)
class Rollout:
    """Carries out a shift.

    Attributes:
        namespace: of the service.
        pause: sleeps so many seconds, and raises InterruptedByPersonError if it is to end.
        told: called with what is going on, while it does.
        seen: called at the end of every step.
    """

    mesh: Mesh
    shift: Shift
    namespace: str
    manner: Manner
    pause: Callable[[float], None]
    told: Callable[[str], None]
    seen: Callable[[Seen], None]
    _in_force: dict[Key, Document | None] = field(default_factory=dict)
    _tried: dict[Key, Document] = field(default_factory=dict)

    def run(self) -> None:
        """Take the steps.

        Raises:
            Changed: somebody else has changed what is shifted; it is left as they made it.
            StepError: a step went wrong; whatever was changed is still to be taken back.
            MeshError: the mesh does not answer; likewise.
        """
        self._in_force = {key: None if key == self.shift.made else item for key, item in self.shift.before.items()}
        for share in self.manner.shares:
            self.told(f"{share}%: waiting until all proxies have it")
            self._apply(self.shift.at(share))
            self.seen(self._watch(share))
        self._require_unchanged()

    def go_back(self) -> bool:
        """Put in force what was before the shift; whether anything else was.

        Raises:
            Changed: somebody else has changed it meanwhile; it is left as they made it.
            MeshError: it cannot be done, or not all proxies have taken it in time.
        """
        if not self._tried:
            return False
        self._in_force = self._found()
        before = {key: None if key == self.shift.made else item for key, item in self.shift.before.items()}
        if all(_meaning(self._in_force[key]) == _meaning(item) for key, item in before.items()):
            return False
        if self.shift.made is None:
            self._apply(self.shift.before)
        elif self._in_force[self.shift.made] is not None:
            self.mesh.remove(self.shift.made, self._expected())
        return True

    # --- Putting in force ---

    def _apply(self, documents: Mapping[Key, Document]) -> None:
        self._tried = dict(documents)
        done = self.mesh.put(documents, self._expected())
        self._in_force = dict(done)
        self._wait_until_acknowledged(done)

    def _expected(self) -> list[Expected]:
        return [((key.kind, key.namespace, key.name), document) for key, document in self._in_force.items()]

    def _found(self) -> dict[Key, Document | None]:
        """What is in force of what is shifted, which must be what this process has put there, or was about to."""
        there = {key: self._object(key) for key in self.shift.before}
        for key, document in there.items():
            ours = (_meaning(self._in_force[key]), _meaning(self._tried.get(key)))
            if _meaning(document) not in ours:
                what = "deleted" if document is None else "changed"
                raise Changed(f"{key} was {what} by somebody else; it stays as they left it")
        return there

    def _require_unchanged(self) -> None:
        self._tried = {}
        self._found()

    def _object(self, key: Key) -> Document | None:
        for item in self.mesh.objects({key.kind}, key.namespace):
            if item["metadata"]["name"] == key.name:
                return item
        return None

    def _wait_until_acknowledged(self, documents: Mapping[Key, Document]) -> None:
        """Until every pilot has `documents` in force, and every proxy has acknowledged a world that has them."""
        wanted = {key: reread(document, Positions("", {})).digest for key, document in documents.items()}
        deadline = time.monotonic() + ACK_TIMEOUT
        having: set[tuple[str, str]] = set()  # pilots, with revisions of their worlds that have them
        done: set[str] = set()
        waiting, trouble = ["pilot"], ""
        while waiting:
            if time.monotonic() > deadline:
                why = trouble or "see pymesh status"
                raise StepError(f"{listed(waiting)} did not take the weights within {ACK_TIMEOUT:g} s: {why}")
            self.pause(_POLL)
            try:
                pilots, trouble = self.mesh.pilots(), ""
            except MeshError as error:
                trouble = str(error)  # pilot is perhaps being started anew; the time is bounded
                continue
            waiting = []
            for pilot in pilots:
                if _has(pilot.config["resources"], wanted):
                    having.add((pilot.name, pilot.config["revision"]))
                done |= {proxy["node"] for proxy in pilot.proxies if _has_taken(proxy, pilot.name, having)}
                if all(name != pilot.name for name, _ in having):
                    waiting.append(pilot.name)
                waiting += [proxy["proxy"] for proxy in pilot.proxies if proxy["node"] not in done]

    # --- Watching ---

    def _watch(self, share: int) -> Seen:
        """Watch a step for its time, and longer if there are too few requests to judge it."""
        began = time.monotonic()
        answered = began  # when the collector last did
        while True:
            self.pause(LOOK)
            now = time.monotonic()
            window = math.floor(now - began - SETTLE)
            if window < 1:
                continue
            try:
                seen = self._ask(share, window)
            except MeshError as error:
                if not self.manner.rules:
                    seen = Seen(share, window, {})
                elif now - answered > COLLECTOR_PATIENCE:
                    raise StepError(f"the collector is lost, and nobody watches {self.shift.subset}: {error}") from None
                else:
                    continue
            answered = now
            try:
                missing = judge(seen, self.shift.subset, self.manner.rules, over=now - began - self.manner.every)
            except StepError:
                self.seen(seen)
                raise
            if missing:
                self.told(f"{share}%: {missing}")
            else:
                return seen

    def _ask(self, share: int, window: int) -> Seen:
        query = {"service": self.shift.service, "namespace": self.namespace, "window": window}
        answer = self.mesh.telemetry("stats", query)
        return Seen(share, answer["covered"], answer["subsets"])


def judge(seen: Seen, subset: str, rules: Sequence[guard.Rule], *, over: float) -> str:
    """What a step still waits for, in words; empty if it went well and is over.

    Args:
        seen: how it went so far.
        subset: the one that is shifted to.
        rules: of the guard; without any, time alone counts.
        over: seconds since the end of its time, negative before.

    Raises:
        StepError: a rule is broken, or there were too few requests for too long.
    """
    numbers = seen.subsets.get(subset, _NOTHING)
    if (sentence := guard.breach(rules, numbers)) is not None:
        raise StepError(f"{subset} has {sentence}")
    if over < 0:
        return f"watched for {-over:.0f} s more"
    requests = numbers["requests"]
    if not rules or requests >= guard.ENOUGH:
        return ""
    if over > PATIENCE:
        raise StepError(f"{subset} had {requests} requests in {seen.seconds:g} s, too few to judge it by")
    return f"waiting for requests: {requests} of the {guard.ENOUGH} that {subset} is judged by"


def _has(resources: Sequence[Mapping[str, Any]], wanted: Mapping[Key, str]) -> bool:
    there = {Key(item["kind"], item["namespace"], item["name"]): item["digest"] for item in resources}
    return all(there.get(key) == digest for key, digest in wanted.items())


def _meaning(document: Document | None) -> Document | None:
    """What people say in an object, without what is kept of it beside that."""
    if document is None:
        return None
    metadata = document["metadata"]
    said = {field: value for field in ("labels", "annotations") if (value := metadata.get(field))}
    return {**said, **{field: value for field, value in document.items() if field not in {"metadata", "status"}}}


def _has_taken(proxy: Mapping[str, Any], pilot: str, having: Container[tuple[str, str]]) -> bool:
    """Whether a proxy has acknowledged all of a world that is one of `having`.

    Raises:
        StepError: it has refused what it was sent.
    """
    for kind, state in proxy["types"].items():
        if state["status"] == "NACKED":
            raise StepError(f"{proxy['proxy']} has refused its {kind}: {state['error']}")
    return (pilot, proxy["revision"]) in having and all(kind["status"] != "STALE" for kind in proxy["types"].values())
