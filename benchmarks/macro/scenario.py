"""What a scenario is made of; those that there are stand in `scenarios.py`.

Each has a folder in `configs/`, with a file for every proxy that takes part: `bootstrap.yaml`, which pymesh-proxy and
Envoy both read, and one for each of the others; which is whose stands in `proxies.py`. A proxy without a file is not
measured there. Where a request goes through several proxies, each hop has a folder of its own in it.

In the files `${LISTEN}` is the port to listen on, `${UPSTREAM}` the next one's, `${FOLDER}` a folder to write to,
`${CERTIFICATES}` one to read certificates from (`certificates.py`), `${NAME}` the proxy's name, and `$$` is a dollar.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from benchmarks.load.target import Request, Target
from benchmarks.macro.machine import Cores
from benchmarks.macro.proxies import REFERENCE, Proxy
from benchmarks.macro.sample import Figure, Sample, Unit

GET: Final = Request()
CONFIGS: Final = Path(__file__).with_name("configs")
# In a request: stands for a session, of which each of wrk's requests has another.
SESSION: Final = "abcdef0123456789"


@dataclass(frozen=True, slots=True)
class Contender:
    """What has the load: a proxy's process, or several that a request goes through.

    Attributes:
        name: of the proxy.
        port: of loopback, to which the load goes.
        pids: the processes whose CPU and memory count, with their children, by part: `client`, `server`.
        said: the end of what they printed.
    """

    name: str
    port: int
    pids: Mapping[str, int]
    said: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's turn: for so many seconds the load is its own.

    Attributes:
        upstream: processes on the load's side, whose CPU is told apart.
        folder: to write to.
    """

    scenario: "Scenario"
    contender: Contender
    upstream: tuple[int, ...]
    seconds: int
    cores: Cores
    folder: Path

    @property
    def target(self) -> Target:
        """Where the load goes."""
        return self.scenario.target(self.contender.port)


@dataclass(frozen=True, slots=True)
class Site:
    """All that runs for a scenario: who is compared, by name, and the processes of the upstream."""

    contenders: Mapping[str, Contender]
    upstream: tuple[int, ...]


# Starts the proxies of a scenario and what they need, in a folder of its own; all of it ends with the block.
Start = Callable[["Scenario", Sequence[Proxy], Path, Cores], AbstractContextManager[Site]]
# Puts load on a contender and tells what it saw. It raises MeshError where there is nothing to tell.
Instrument = Callable[[Turn], Sample]
# More for the configuration files, for as long as the scenario lasts: from a folder of its own, and the cores.
Setting = Callable[[Path, Cores], AbstractContextManager[Mapping[str, object]]]


@contextmanager
def nothing_more(_folder: Path, _cores: Cores) -> Iterator[Mapping[str, object]]:
    """The setting of most scenarios."""
    yield {}


class Kind(Enum):
    """What a goal says of a figure."""

    AT_MOST = "at most"
    # What it is more than the other's, instead of how many times that.
    ADDED = "added"
    AT_LEAST = "at least"

    @property
    def sign(self) -> str:
        """Between the figure and what is wanted of it."""
        return "≥" if self is Kind.AT_LEAST else "≤"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure of pymesh should be: at most, if nothing else is said.

    Attributes:
        figure: its name; `rss_idle_bytes` and `rss_loaded_bytes` are every scenario's.
        target, stretch: the least that is wanted, and more than that; None where nothing is.
        against: the proxy that it is compared with, round by round: divided by its figure, or what was ADDED to that;
            empty for the figure itself.
    """

    figure: str
    target: float | None
    stretch: float | None = None
    against: str = REFERENCE
    kind: Kind = Kind.AT_MOST


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic.

    Attributes:
        name: as on the command line, where `post` also stands for `post-fixed` and `post-chunked`.
        summary: one line for people.
        unit: of which the cost is told.
        instrument: the load tool, and what it does.
        figures: what is told of each contender, the most important first; it is the one whose ratios must be steady.
        latency: figures of the second table; empty where the instrument measures none.
        goals: what is wanted of pymesh.
        request: of the load, and of the check that a proxy answers as the upstream does.
        tls: the load comes over TLS.
        path: of every request.
        body_bytes: length of each answer's body.
        folder_name: in `configs/`, where it is not the scenario's name.
        hops: folders below it, from the client to the upstream; `.` for the folder itself.
        setting: makes more values for the configuration files.
        arguments: more of them on the command line, by the proxy's name; with the values of its configuration.
        asked: whether each proxy must give the upstream's answer before the load; else the instrument looks.
        start: its own way of starting; None for the proxies of `proxies.py`, from the files in its folder.
    """

    name: str
    summary: str
    unit: Unit
    instrument: Instrument
    figures: tuple[Figure, ...]
    latency: tuple[Figure, ...] = ()
    goals: tuple[Goal, ...] = ()
    request: Request = GET
    tls: bool = False
    path: str = "/reviews/1?full=true"
    body_bytes: int = 1024
    folder_name: str = ""
    hops: tuple[str, ...] = (".",)
    setting: Setting = nothing_more
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: bool = True
    start: Start | None = None

    @property
    def folder(self) -> Path:
        """Where its configuration files are."""
        return CONFIGS / (self.folder_name or self.name)

    @property
    def body(self) -> str:
        """What the upstream answers with."""
        return "x" * self.body_bytes

    def target(self, port: int) -> Target:
        """What is asked for on a port of loopback."""
        return Target("127.0.0.1", port, self.tls, f"127.0.0.1:{port}", self.path)
