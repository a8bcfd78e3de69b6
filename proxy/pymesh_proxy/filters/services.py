"""What a filter may ask outside of the proxy; `control.services` has the real ones."""

from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol

from pymesh_proxy.filters.containment import Containment
from pymesh_proxy.filters.rates import RateRule, RateSettings
from pymesh_proxy.filters.remembered import Remembered
from pymesh_proxy.filters.slots import SlotRule, SlotSettings
from pymesh_proxy.filters.waiting import Refusal
from pymesh_proxy.telemetry.filter_metrics import PythonFilterStats
from pymesh_proxy.telemetry.jwt_metrics import JwtStats
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from pymesh_proxy.telemetry.rbac_metrics import RbacStats
from pymesh_proxy.telemetry.record import RequestRecord


class PolicyService(Protocol):
    """The policy service behind one cluster.

    Attributes:
        remembered: its last answers.
        away: why it is not asked at the moment; empty while it is.
    """

    remembered: Remembered
    away: str

    def leased(self, settings: SlotSettings | RateSettings) -> SlotRule | RateRule:
        """The slots or tokens of a rule that is in force: the same object for as long as anybody has it."""

    def stats(self, rule: str) -> PolicyStats:
        """The counters of `rule`."""

    def clock(self) -> float:
        """Seconds, monotonic."""

    def wait(self, rule: SlotRule | RateRule, record: RequestRecord, within: float) -> Awaitable[Refusal | None]:
        """Wait for a slot or token, at most `within` seconds; `rule.release` ends it, too."""

    def check(self, request: bytes, within: float) -> Coroutine[Any, Any, bytes]:
        """The CheckResponse to a CheckRequest. Raises RpcError, and then is `away` until a probe finds it again.

        That is, unless it is TooManyCallsError: then only this question was not asked.
        """

    def hear_of_changes(self) -> None:
        """Hear at once when the rules change: `remembered` forgets what was said by others then."""

    def lost(self, why: str) -> None:
        """What it answered is of no use: it is `away`."""


class Authorization(Protocol):
    """Any external authorization service behind one cluster."""

    def stats(self) -> PolicyStats:
        """Its counters."""

    def clock(self) -> float:
        """Seconds, monotonic."""

    def check(self, request: bytes, within: float) -> Coroutine[Any, Any, bytes]:
        """The CheckResponse to a CheckRequest. Raises RpcError."""


class Services(Protocol):
    """The services that filters in force ask."""

    def policy(self, cluster: str, timeout: float) -> PolicyService:
        """The policy service behind `cluster`; an answer that takes longer than `timeout` seconds is none."""

    def authorization(self, cluster: str, authority: str = "") -> Authorization:
        """The external authorization service behind `cluster`, asked by the name `authority`."""

    def jwt_stats(self, prefix: str) -> JwtStats:
        """The counters of tokens under `prefix`."""

    def rbac_stats(self, prefix: str) -> RbacStats:
        """The counters of access rules for requests under `prefix`."""

    def network_rbac_stats(self, prefix: str) -> RbacStats:
        """The counters of access rules for connections under `prefix`."""

    def filter_stats(self, name: str) -> PythonFilterStats:
        """The counters of the filter `name` in plain Python."""

    def containment(self) -> Containment:
        """What runs the hooks of filters in plain Python."""
