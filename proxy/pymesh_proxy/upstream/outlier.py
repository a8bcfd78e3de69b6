"""Outlier detection: an endpoint that fails while others do not is left out for a while. Pure.

Requests tell what became of them (`answered`, `connected`, `failed`); once in every interval `tick` looks at success
rates, and takes back those whose time is over. The time grows with every ejection, and shrinks while an endpoint
behaves. How many may be out at once is limited.

Source: Envoy's documentation "Outlier detection" and envoy.config.cluster.v3.OutlierDetection; the order of checks and
the arithmetic are those of its DetectorImpl.
"""

import enum
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Final

from pymesh_proxy.upstream.endpoint import Endpoint, Health

log = logging.getLogger("pymesh.outlier")


class Ejection(enum.Enum):
    """Why an endpoint is left out, by the names that Envoy's counters have."""

    CONSECUTIVE_5XX = "consecutive_5xx"
    CONSECUTIVE_GATEWAY_FAILURE = "consecutive_gateway_failure"
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE = "consecutive_local_origin_failure"
    SUCCESS_RATE = "success_rate"
    LOCAL_ORIGIN_SUCCESS_RATE = "local_origin_success_rate"
    FAILURE_PERCENTAGE = "failure_percentage"
    LOCAL_ORIGIN_FAILURE_PERCENTAGE = "local_origin_failure_percentage"


# Percent of the detected outliers of each kind that are ejected, where the configuration does not say.
ENFORCING: Final[Mapping[Ejection, int]] = {
    Ejection.CONSECUTIVE_5XX: 100,
    Ejection.CONSECUTIVE_GATEWAY_FAILURE: 0,
    Ejection.CONSECUTIVE_LOCAL_ORIGIN_FAILURE: 100,
    Ejection.SUCCESS_RATE: 100,
    Ejection.LOCAL_ORIGIN_SUCCESS_RATE: 100,
    Ejection.FAILURE_PERCENTAGE: 0,
    Ejection.LOCAL_ORIGIN_FAILURE_PERCENTAGE: 0,
}


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """envoy.config.cluster.v3.OutlierDetection with its defaults. Times are seconds, `stdev_factor` is a factor."""

    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_time: float = 300.0
    max_ejection_time_jitter: float = 0.0
    max_ejection_percent: int = 10
    always_eject_one: bool = False
    consecutive_5xx: int = 5
    consecutive_gateway_failure: int = 5
    consecutive_local_origin_failure: int = 5
    split_local_origin: bool = False
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: float = 1.9
    failure_percentage_threshold: int = 85
    failure_percentage_minimum_hosts: int = 5
    failure_percentage_request_volume: int = 50
    uneject_when_checked: bool = True
    enforcing: Mapping[Ejection, int] = field(default_factory=lambda: ENFORCING)


class OutlierStats:
    """Counters of one cluster: ejections by kind, detected and enforced, and those that the limit did not allow."""

    __slots__ = ("detected", "enforced", "overflow")

    def __init__(self) -> None:
        self.detected = dict.fromkeys(Ejection, 0)
        self.enforced = dict.fromkeys(Ejection, 0)
        self.overflow = 0


class _Tally:
    """Requests of one interval, and how many of them went well."""

    __slots__ = ("good", "total")

    def __init__(self) -> None:
        self.total = self.good = 0

    @property
    def rate(self) -> float:
        """Percent."""
        return 100 * self.good / self.total


class _Record:
    """What is known of one endpoint. `external` is what it answered, `local` whether it could be reached at all."""

    __slots__ = (
        "consecutive_5xx", "consecutive_gateway", "consecutive_local", "ejected_at", "external", "jitter", "local",
        "multiplier",
    )  # fmt: skip

    def __init__(self) -> None:
        self.external, self.local = _Tally(), _Tally()
        self.multiplier = 0  # of base_ejection_time
        self.ejected_at = self.jitter = 0.0
        self.reset()

    def reset(self) -> None:
        self.consecutive_5xx = self.consecutive_gateway = self.consecutive_local = 0


class OutlierDetector:
    """Watches the endpoints of one cluster."""

    __slots__ = ("_cluster", "_random", "_records", "settings", "stats")

    def __init__(self, cluster: str, settings: OutlierSettings, random: Callable[[], float]) -> None:
        self._cluster = cluster
        self._random = random
        self._records: dict[Endpoint, _Record] = {}
        self.settings = settings
        self.stats = OutlierStats()

    def follow(self, settings: OutlierSettings, endpoints: Iterable[Endpoint]) -> None:
        """From now on watch these endpoints; what is known of those that stay is kept."""
        self.settings = settings
        self._records = {endpoint: self._records.get(endpoint) or _Record() for endpoint in endpoints}

    def end(self) -> None:
        """Watch nobody any more: whoever is out comes back."""
        for endpoint in self._records:
            endpoint.mark(Health.FAILED_OUTLIER_CHECK, on=False)
        self._records = {}

    @property
    def ejected(self) -> int:
        """How many endpoints are out."""
        return sum(bool(endpoint.flags & Health.FAILED_OUTLIER_CHECK) for endpoint in self._records)

    # --- What requests tell ---

    def answered(self, endpoint: Endpoint, status: int, now: float) -> None:
        """A response head came."""
        record = self._records.get(endpoint)
        if record is None:
            return
        record.external.total += 1
        if status < 500 or status > 599:
            record.external.good += 1
            record.consecutive_5xx = record.consecutive_gateway = 0
            return
        if 502 <= status <= 504:
            record.consecutive_gateway += 1
            if record.consecutive_gateway == self.settings.consecutive_gateway_failure:
                self._found(endpoint, record, Ejection.CONSECUTIVE_GATEWAY_FAILURE, now)
                record.consecutive_gateway = 0
        else:
            record.consecutive_gateway = 0
        record.consecutive_5xx += 1
        if record.consecutive_5xx == self.settings.consecutive_5xx:
            self._found(endpoint, record, Ejection.CONSECUTIVE_5XX, now)
            record.consecutive_5xx = 0

    def connected(self, endpoint: Endpoint) -> None:
        """There is a connection to send the request over: counts only where local errors are told apart."""
        record = self._records.get(endpoint)
        if record is not None and self.settings.split_local_origin:
            record.local.total += 1
            record.local.good += 1
            record.consecutive_local = 0

    def relayed(self, endpoint: Endpoint, now: float) -> None:
        """There is a connection, and nothing else will be told of it: an opaque one."""
        if self.settings.split_local_origin:
            self.connected(endpoint)
        else:
            self.answered(endpoint, 200, now)

    def failed(self, endpoint: Endpoint, now: float, *, timeout: bool = False) -> None:
        """No answer came: no connection, one that broke, or too late. As good as an answer of 503, or 504."""
        if not self.settings.split_local_origin:
            self.answered(endpoint, 504 if timeout else 503, now)
            return
        record = self._records.get(endpoint)
        if record is None:
            return
        record.local.total += 1
        record.consecutive_local += 1
        if record.consecutive_local == self.settings.consecutive_local_origin_failure:
            self._found(endpoint, record, Ejection.CONSECUTIVE_LOCAL_ORIGIN_FAILURE, now)
            record.consecutive_local = 0

    def checked_healthy(self, endpoint: Endpoint) -> None:
        """An active health check went well."""
        record = self._records.get(endpoint)
        out = endpoint.flags & (Health.FAILED_OUTLIER_CHECK | Health.FAILED_ACTIVE_HC)
        if record is not None and out == Health.FAILED_OUTLIER_CHECK and self.settings.uneject_when_checked:
            self._take_back(endpoint, record)

    # --- Once in every interval ---

    def tick(self, now: float) -> None:
        """An interval is over: take back those whose time is over, and look at the rates of all others."""
        settings = self.settings
        tallies = []
        for endpoint, record in self._records.items():
            if endpoint.flags & Health.FAILED_OUTLIER_CHECK:
                time_out = min(settings.base_ejection_time * record.multiplier, settings.max_ejection_time)
                if now - record.ejected_at >= time_out + record.jitter:
                    self._take_back(endpoint, record)
            tallies.append((endpoint, record, record.external, record.local))
            record.external, record.local = _Tally(), _Tally()
        self._look_at_rates(
            [(endpoint, record, external) for endpoint, record, external, _ in tallies],
            Ejection.SUCCESS_RATE,
            Ejection.FAILURE_PERCENTAGE,
            now,
        )
        self._look_at_rates(
            [(endpoint, record, local) for endpoint, record, _, local in tallies],
            Ejection.LOCAL_ORIGIN_SUCCESS_RATE,
            Ejection.LOCAL_ORIGIN_FAILURE_PERCENTAGE,
            now,
        )
        for endpoint, record in self._records.items():
            if not endpoint.flags & Health.FAILED_OUTLIER_CHECK and record.multiplier:
                record.multiplier -= 1

    def _look_at_rates(
        self,
        tallies: Sequence[tuple[Endpoint, _Record, _Tally]],
        by_rate: Ejection,
        by_percentage: Ejection,
        now: float,
    ) -> None:
        settings = self.settings
        in_use = [
            (endpoint, record, tally)
            for endpoint, record, tally in tallies
            if tally.total and not endpoint.flags & Health.FAILED_OUTLIER_CHECK
        ]
        busy = [entry for entry in in_use if entry[2].total >= settings.success_rate_request_volume]
        if busy and len(busy) >= settings.success_rate_minimum_hosts:
            rates = [tally.rate for _, _, tally in busy]
            mean = sum(rates) / len(rates)
            deviation = sqrt(sum((rate - mean) ** 2 for rate in rates) / len(rates))
            for endpoint, record, tally in busy:
                if tally.rate < mean - settings.success_rate_stdev_factor * deviation:
                    self._found(endpoint, record, by_rate, now)
        busy = [entry for entry in in_use if entry[2].total >= settings.failure_percentage_request_volume]
        if busy and len(busy) >= settings.failure_percentage_minimum_hosts:
            for endpoint, record, tally in busy:
                if 100 - tally.rate >= settings.failure_percentage_threshold:
                    self._found(endpoint, record, by_percentage, now)

    # --- Out, and back ---

    def _found(self, endpoint: Endpoint, record: _Record, why: Ejection, now: float) -> None:
        """An outlier: eject it if that is allowed and to be enforced."""
        if endpoint.flags & Health.FAILED_OUTLIER_CHECK:
            return
        settings, stats, ejected = self.settings, self.stats, self.ejected
        stats.detected[why] += 1
        allowed = 100 * (ejected + 1) <= settings.max_ejection_percent * len(self._records)
        if not allowed and not (settings.always_eject_one and not ejected):
            stats.overflow += 1
            return
        if self._random() * 100 >= settings.enforcing[why]:
            return
        stats.enforced[why] += 1
        record.ejected_at = now
        record.jitter = settings.max_ejection_time_jitter * self._random()
        if settings.base_ejection_time * record.multiplier < settings.max_ejection_time + settings.base_ejection_time:
            record.multiplier += 1
        endpoint.mark(Health.FAILED_OUTLIER_CHECK, on=True)
        log.warning("%s of cluster %s is ejected: %s", endpoint.address, self._cluster, why.value)

    def _take_back(self, endpoint: Endpoint, record: _Record) -> None:
        record.reset()
        endpoint.mark(Health.FAILED_OUTLIER_CHECK, on=False)
        log.info("%s of cluster %s is back", endpoint.address, self._cluster)
