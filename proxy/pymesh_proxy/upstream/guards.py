"""Who watches the health of endpoints: outlier detection and active checks of the clusters that have them configured.

They outlive snapshots: what they have found out about an endpoint stays as long as the endpoint does. A cluster
without either costs nothing here.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from time import monotonic

from pymesh_proxy.config.model import Cluster
from pymesh_proxy.timers import NEVER, TimerWheel
from pymesh_proxy.upstream.checker import MAX_CHECKS, Dial, HealthChecker, Spawn
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.outlier import OutlierDetector


class Sweep:
    """Lets a detector have its turn once in every interval; see timers.Timed."""

    __slots__ = ("_timers", "deadline", "detector", "timer_slot")

    def __init__(self, detector: OutlierDetector, timers: TimerWheel) -> None:
        self.detector = detector
        self._timers = timers
        self.timer_slot = 0
        self.deadline = monotonic() + detector.settings.interval
        timers.watch(self)

    def on_deadline(self, now: float) -> None:
        """An interval is over."""
        self.detector.tick(now)
        self.deadline = now + self.detector.settings.interval
        self._timers.watch(self)

    def end(self) -> None:
        """No more turns."""
        self.deadline = NEVER
        self._timers.forget(self)


class Guards:
    """The detectors and checkers of one proxy, by cluster."""

    def __init__(self, timers: TimerWheel, dial: Dial, spawn: Spawn, random: Callable[[], float]) -> None:
        self._timers = timers
        self._dial = dial
        self._spawn = spawn
        self._random = random
        self._slots = asyncio.Semaphore(MAX_CHECKS)
        self._sweeps: dict[str, Sweep] = {}
        self._followed: Mapping[str, Cluster] = {}
        self.checkers: dict[str, HealthChecker] = {}

    def follow(self, clusters: Mapping[str, Cluster], used: Callable[[str], bool]) -> None:
        """Watch these clusters from now on; `used` says whether one has had a connection yet."""
        followed, self._followed = self._followed, clusters
        detected = {name: cluster for name, cluster in clusters.items() if cluster.outlier is not None}
        for name in self._sweeps.keys() - detected.keys():
            sweep = self._sweeps.pop(name)
            sweep.end()
            sweep.detector.end()
        for name, cluster in detected.items():
            if followed.get(name) is not cluster:
                self._detect(name, cluster)
        checked = {name: cluster for name, cluster in clusters.items() if cluster.health_check is not None}
        for name in self.checkers.keys() - checked.keys():
            self.checkers.pop(name).end()
        for name, cluster in checked.items():
            if followed.get(name) is not cluster:
                self._check(name, cluster, used)

    def _detect(self, name: str, cluster: Cluster) -> None:
        assert cluster.outlier is not None
        sweep = self._sweeps.get(name)
        if sweep is None:
            detector = OutlierDetector(name, cluster.outlier, self._random)
            sweep = self._sweeps[name] = Sweep(detector, self._timers)
        sweep.detector.follow(cluster.outlier, cluster.endpoints)

    def _check(self, name: str, cluster: Cluster, used: Callable[[str], bool]) -> None:
        checker = self.checkers.get(name)
        if checker is None:

            def healthy(endpoint: Endpoint) -> None:
                detector = self.detector(name)
                if detector is not None:
                    detector.checked_healthy(endpoint)

            checker = self.checkers[name] = HealthChecker(
                self._dial, self._spawn, self._random, self._slots, healthy=healthy, used=lambda: used(name)
            )
        checker.follow(cluster, cluster.endpoints)

    def detector(self, cluster: str) -> OutlierDetector | None:
        """The one that watches `cluster`."""
        sweep = self._sweeps.get(cluster)
        return None if sweep is None else sweep.detector

    def detectors(self) -> Iterator[tuple[str, OutlierDetector]]:
        """All of them, by cluster."""
        for name, sweep in self._sweeps.items():
            yield name, sweep.detector

    def close(self) -> None:
        """Watch nobody any more."""
        for sweep in self._sweeps.values():
            sweep.end()
        for checker in self.checkers.values():
            checker.end()
