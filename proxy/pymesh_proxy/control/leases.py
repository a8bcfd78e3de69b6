"""The slots and tokens of this sidecar: its stream to the policy service, kept for as long as a rule is in force.

The decisions are the rules' own (filters/slots.py, filters/rates.py); here is when the service hears from us, and when
it counts as away: a request waited for an answer longer than it may, no heartbeat was answered, or the stream broke.
The stream is also what finds the service again: requests never try.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, TypeAlias
from weakref import WeakValueDictionary

from pymesh.grpc.status import Code, RpcError, Status
from pymesh.policy_api import HEARTBEAT, PATH, LeaseRequest, LeaseResponse, decode_response, encode_request
from pymesh_proxy.control.backoff import Backoff
from pymesh_proxy.control.channel import Stream
from pymesh_proxy.control.grpc_cluster import ClusterChannel, Mesh
from pymesh_proxy.filters.rates import RateRule, RateSettings
from pymesh_proxy.filters.slots import SlotRule, SlotSettings
from pymesh_proxy.filters.waiting import Refusal, give_up, lose
from pymesh_proxy.telemetry.policy_metrics import PolicyMetrics
from pymesh_proxy.telemetry.record import RequestRecord

log = logging.getLogger("pymesh.policy")

# Seconds between two reports while requests wait, or slots that were asked back came free: a burst is one report.
SOON: Final = 0.01
# Seconds between two reports while the limit is reached and requests are refused.
WHILE_FULL: Final = 0.1
# Seconds between two reports while the service is slow: it is found again by an answer that comes in time.
WHILE_AWAY: Final = 0.25
# Seconds without an answer to a heartbeat after which the service counts as away, though nobody waits: a busy machine
# may be late, and whoever waits notices earlier.
SLOW: Final = 1.0
# Seconds without an answer after which the stream is made anew, maybe to another endpoint: to be there with what we
# hold before the share of a replica that stopped is given to others (the service's policy/store.py).
GIVE_UP: Final = 2.5
# Seconds: the longest pause between two attempts to reach the service.
LONGEST_PAUSE: Final = 1.0
# Seconds for the service to end a stream that we have ended.
GOODBYE: Final = 0.5


LeasedRule: TypeAlias = SlotRule | RateRule


class Host(Mesh, Protocol):
    """What Leases needs of the proxy (runtime.Runtime)."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in a task that the proxy owns."""


class Leases:
    """The rules of kinds `slots` and `rate` that one policy service decides, and the stream to it.

    Attributes:
        timeout: seconds for an answer to count; the longest of those that filters in force give it.
        rules: those in force, by name.
        keep: whether there is to be a stream without any, to hear of other rules.
        on_epoch: called with what each response says of that.
    """

    def __init__(self, host: Host, channel: ClusterChannel, metrics: PolicyMetrics, node: Callable[[], str]) -> None:
        self.timeout = 0.0
        self.keep = False
        self.on_epoch: Callable[[str], object] = lambda _: None
        self._host = host
        self._channel = channel
        self._metrics = metrics
        self._node = node
        self._known: WeakValueDictionary[str, LeasedRule] = WeakValueDictionary()
        self.rules: dict[str, LeasedRule] = {}
        self._away = ""
        self._task: asyncio.Task[None] | None = None
        self._leaving = False
        self._wake = asyncio.Event()
        self._due = self._last_sent = 0.0  # of the next report, and of the one before
        self._sent_at: float | None = None  # of the report that is not answered yet
        self._reports = 0  # sent on this stream
        self._before: frozenset[str] = frozenset()  # the rules of the configuration before
        self._named_from: dict[str, int] = {}  # by rule that came during this stream: the first report that names it
        self._news = False  # a configuration has come into force: what was tried in vain may be there now
        self._heard_at = float("-inf")
        self._seen = 0
        self._ended = ""
        self._replica = ""  # of the service, whose grants we hold

    # --- Rules ---

    def begin(self) -> None:
        """A configuration comes into force: `add` names its rules, then `settle`."""
        self._before = frozenset(self.rules)
        self.rules = {}
        self.timeout = 0.0
        self.keep = False

    def add(self, settings: SlotSettings | RateSettings) -> LeasedRule:
        """The rule, as it is to be from now on; what it has in use or in stock stays if it was in force."""
        known, stats = self._known.get(settings.name), self._metrics.of(settings.name)
        rule: LeasedRule
        if isinstance(settings, SlotSettings):
            rule = known if isinstance(known, SlotRule) else SlotRule(settings, stats, self._urgent)
            rule.configure(settings)
        else:
            rule = known if isinstance(known, RateRule) else RateRule(settings, stats, self._urgent)
            rule.configure(settings)
        if rule is not known:
            self._known[settings.name] = rule
            self._urgent(True)
        if self._away:
            lose(rule, self._away)
        self.rules[settings.name] = rule
        return rule

    def settle(self) -> None:
        """The configuration is in force: keep a stream for its rules, if there are any."""
        for name, rule in tuple(self._known.items()):
            if name not in self.rules:
                rule.retire()
        # What is decided before the service has heard that a rule is back is void: others may have been given it since.
        came = dict.fromkeys(self.rules.keys() - self._before, self._reports + 1)
        self._named_from = {name: report for name, report in self._named_from.items() if name in self.rules} | came
        if self._wanted and self._task is None:
            self._task = self._host.spawn(self._run())
        self._news = True
        self._wake.set()  # the service may have moved, or is no longer asked

    async def close(self) -> None:
        """Give the slots back and end the stream."""
        self._leaving = True
        self._wake.set()
        if (task := self._task) is not None:
            await asyncio.wait([task], timeout=2 * GOODBYE)
            task.cancel()

    # --- Requests ---

    def wait(self, rule: LeasedRule, record: RequestRecord, within: float) -> Awaitable[Refusal | None]:
        """See filters.services.PolicyService."""
        loop = self._host.loop
        answer: asyncio.Future[Refusal | None] = loop.create_future()
        timer = loop.call_later(within, self._expired, rule, record, within)

        def settle(refusal: Refusal | None) -> None:
            timer.cancel()
            if not answer.done():
                answer.set_result(refusal)

        rule.waiting.add(record, settle)
        return answer

    def _expired(self, rule: LeasedRule, record: RequestRecord, within: float) -> None:
        """A request has waited for as long as it may."""
        if record not in rule.waiting:
            return
        if self._host.loop.time() - self._heard_at >= within:
            self._lose(f"no answer within {within:g} s")
        give_up(rule, record)

    # --- The stream ---

    async def _run(self) -> None:
        """Keep a stream while there are rules; what fails is tried again."""
        backoff = Backoff(random.SystemRandom(), LONGEST_PAUSE)
        while self._wanted:
            try:
                async with self._channel.stream(PATH) as stream:
                    problem = await self._hold(stream)
            except RpcError as error:
                problem = error.status.message or str(error)
            if problem and self._wanted:
                if self._seen:  # it worked for a while
                    backoff.reset()
                    self._seen = 0
                self._lose(problem)
                await self._pause(backoff.delay())
        self._task = None

    @property
    def _wanted(self) -> bool:
        """Whether there is to be a stream."""
        return (bool(self.rules) or self.keep) and not self._leaving

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt; a configuration that comes into force ends the wait."""
        until, self._news = self._host.loop.time() + seconds, False
        while self._wanted and not self._news and self._host.loop.time() < until:
            self._wake.clear()
            await self._woken(until)

    async def _woken(self, until: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._wake.wait()

    async def _hold(self, stream: Stream) -> str:
        """Talk until the stream is no longer wanted, or leads to the wrong place (empty), or is of no use (why).

        Only a stream that is not wanted is ended in order, which gives the slots back: they are to be ours elsewhere.

        Raises:
            RpcError: it broke.
        """
        self._ended, self._sent_at, self._seen, self._reports, self._due = "", None, 0, 0, 0.0
        self._named_from = {}
        for rule in tuple(self._known.values()):  # also those that are retired: they may come back
            if isinstance(rule, RateRule):
                rule.begin_stream()
        reader = self._host.spawn(self._read(stream))
        try:
            while not self._ended and self._wanted and not self._channel.moved:
                self._wake.clear()
                now = self._host.loop.time()
                if self._sent_at is None and now >= self._due:
                    await self._report(stream, now)
                await self._woken(self._check_silence(now))
            if not self._ended and not self._wanted:
                await self._report(stream, self._host.loop.time())  # of rates, what was spent last
                stream.finish()
                await asyncio.wait([reader], timeout=GOODBYE)
                return ""
            return self._ended
        finally:
            reader.cancel()

    async def _report(self, stream: Stream, now: float) -> None:
        demands = tuple(rule.report(now) for rule in self.rules.values())
        self._last_sent = self._sent_at = now
        self._reports += 1
        self._due = now + (WHILE_AWAY if self._away else HEARTBEAT)
        await stream.send(encode_request(LeaseRequest(self._node(), demands, self._seen, self._replica)))

    def _check_silence(self, now: float) -> float:
        """When to look again. Raises RpcError when it is time to give the stream up."""
        if self._sent_at is None:
            return self._due
        silent = now - self._sent_at
        if silent >= GIVE_UP:
            self._channel.renew()
            raise RpcError(Status(Code.DEADLINE_EXCEEDED, f"no answer for {GIVE_UP:g} s"))
        if silent >= SLOW:
            self._lose(f"no answer for {SLOW:g} s")
        return self._sent_at + (GIVE_UP if silent >= SLOW else SLOW)

    async def _read(self, stream: Stream) -> None:
        """Take answers until there are no more; `_ended` says why."""
        ended = "the policy service has ended the stream"
        try:
            while (data := await stream.receive()) is not None:
                self._answered(decode_response(data))
        except RpcError as error:
            ended = error.status.message or str(error)
        except ValueError as error:
            ended = str(error)
        self._ended = ended
        self._wake.set()

    def _answered(self, response: LeaseResponse) -> None:
        now = self._host.loop.time()
        # The service also speaks unasked, maybe before it has heard our last report: that is no answer to it yet.
        whole = response.heard >= self._reports
        in_time = self._sent_at is None or now - self._sent_at <= self.timeout
        self._heard_at = now
        if whole:
            self._sent_at = None
        self._seen, self._replica = response.nonce, response.replica
        self.on_epoch(response.epoch)
        if in_time and self._away:
            log.info("policy service %s: back", self._channel.cluster_name)
            self._away = ""
        for grant in response.grants:
            rule = self.rules.get(grant.rule)
            if rule is not None and response.heard >= self._named_from.get(grant.rule, 0):
                rule.answer(grant, now=now, in_time=in_time, whole=whole)
        self._wake.set()

    def _urgent(self, soon: bool) -> None:
        """A rule has something to say before the next heartbeat."""
        due = self._last_sent + (SOON if soon else WHILE_FULL)
        if due < self._due:
            self._due = due
            self._wake.set()

    def _lose(self, why: str) -> None:
        if not self._away:
            log.warning("policy service %s is away: %s", self._channel.cluster_name, why)
        self._away = why
        for rule in self.rules.values():
            lose(rule, why)
