"""The policy question of the inbound sidecar: may this request go on to the app?

Rules of kind `slots` are answered from slots that this sidecar holds (slots.py): a set operation, no waiting. A request
that finds none waits for the policy service to grant more, or is refused where it has said that there are none. Rules
of kind `check` are asked about, all in one question. While the service is away, each rule's failure mode decides.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import Final

from pymesh.grpc.status import RpcError
from pymesh.policy_api import RULES_EXTENSION
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.authz import Answer, AnswerError, question, read_answer
from pymesh_proxy.filters.base import Later, LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.remembered import Attribute, Key, key_of
from pymesh_proxy.filters.services import PolicyService, Services
from pymesh_proxy.filters.slots import Mode, Refusal, SlotRule, SlotSettings
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from pymesh_proxy.telemetry.record import RequestRecord

# Key of RequestRecord.notes.
NOTE: Final = "policy"
# Seconds, for `Retry-After` of a reached limit: slots come free with every request that ends.
RETRY_AFTER: Final = b"1"
# Seconds: with less than this left, a request is not asked about; a service cannot answer in it.
LEAST_TIME: Final = 0.001
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """A rule of kind `check`: each request is asked about. `by`: what answers are remembered by."""

    name: str
    mode: Mode
    otherwise: Mode
    by: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The filter's configuration. `timeout`: the longest that a request waits for the service, in seconds."""

    cluster: str
    timeout: float
    rules: tuple[SlotSettings | CheckSettings, ...]


class PolicyFilter:
    """The filter of one connection manager. It serves once it is in force: after the first `connect`."""

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self._service: PolicyService | None = None
        self._slots: tuple[SlotRule, ...] = ()
        self._checks = tuple(rule for rule in settings.rules if isinstance(rule, CheckSettings))
        self._check_stats: tuple[PolicyStats, ...] = ()
        self._extensions = {RULES_EXTENSION: ",".join(rule.name for rule in self._checks)}

    def connect(self, services: Services) -> None:
        """See filters.base: the filter is in force."""
        service = self._service = services.policy(self.settings.cluster, self.settings.timeout)
        self._slots = tuple(service.slots(rule) for rule in self.settings.rules if isinstance(rule, SlotSettings))
        self._check_stats = tuple(service.stats(rule.name) for rule in self._checks)

    def on_request(self, context: RequestContext) -> Verdict | Awaitable[Verdict]:
        """See filters.base. The common path is a slot that is held: no task, nothing awaited."""
        record = context.record
        if self._service is None:
            raise RuntimeError("a policy filter was asked before it was in force")
        for index, rule in enumerate(self._slots):
            if rule.take(record):
                if index:
                    _note(record, rule.note())
                else:
                    record.notes[NOTE] = rule.note()
                continue
            refusal = rule.refusal()
            if refusal is not None:
                return _no_slot(rule, refusal, record)
            return Later(partial(self._ask, context, index))
        return Later(partial(self._check, context)) if self._checks else None

    def on_complete(self, record: RequestRecord) -> None:
        """See filters.base: whatever became of the request, its slots are free."""
        for rule in self._slots:
            rule.release(record)

    # --- What takes time ---

    async def _ask(self, context: RequestContext, first: int) -> Verdict:
        """Wait for a slot of rule number `first`, then go on with the next; all of it within the one timeout."""
        record = context.record
        assert self._service is not None
        clock = self._service.clock
        until = clock() + self.settings.timeout
        for rule in self._slots[first:]:
            if rule.take(record):
                _note(record, rule.note())
                continue
            begun = clock()
            refusal = rule.refusal() or await self._wait(rule, record, until)
            if refusal is not None:
                return _no_slot(rule, refusal, record)
            _note(record, f"{rule.note()}, asked, {(clock() - begun) * 1000:.1f} ms")
        return await self._check(context, until) if self._checks else None

    async def _wait(self, rule: SlotRule, record: RequestRecord, until: float) -> Refusal | None:
        service = self._service
        assert service is not None
        begun = service.clock()
        try:
            return await service.wait(rule, record, until - begun)
        finally:
            rule.stats.asked += 1
            rule.stats.seconds += service.clock() - begun

    async def _check(self, context: RequestContext, until: float | None = None) -> Verdict:
        """Ask about all rules of kind `check` at once."""
        service = self._service
        assert service is not None
        keys = [key_of(context, rule.by) for rule in self._checks]
        begun = service.clock()
        left = self.settings.timeout if until is None else until - begun
        if service.away or left < LEAST_TIME:
            return self._without(context, keys, service.away or "the wait for a slot has taken all the time")
        try:
            answer = read_answer(await service.check(question(context, self._extensions), left))
            if answer.changes_headers:
                raise AnswerError("header changes are not supported here")
            problem = "it could not decide" if answer.error else ""
        except RpcError as error:
            answer, problem = None, error.status.message or str(error)
        except AnswerError as error:
            answer, problem = None, str(error)
            service.lost(problem)
        spent = service.clock() - begun
        for stats in self._check_stats:
            stats.asked += 1
            stats.seconds += spent
        if answer is None or problem:
            return self._without(context, keys, problem)
        return self._answered(context, keys, answer, f"asked, {spent * 1000:.1f} ms")

    def _answered(self, context: RequestContext, keys: list[Key], answer: Answer, how: str) -> Verdict:
        """Do as the service says, and remember it."""
        assert self._service is not None
        remembered = self._service.remembered
        for rule, key, stats in zip(self._checks, keys, self._check_stats, strict=True):
            if answer.allowed:
                stats.allowed += 1
            elif answer.rule in {rule.name, ""}:
                stats.denied += 1
            else:
                continue  # another rule denied it: nothing was said of this one
            remembered.put(rule.name, key, answer)
        names = ", ".join(rule.name for rule in self._checks) if answer.allowed else self._denier(answer)
        _note(context.record, f"{names}: {'allowed' if answer.allowed else 'denied'}, {how}")
        return None if answer.allowed else _denied(self._denier(answer), answer)

    def _denier(self, answer: Answer) -> str:
        return answer.rule or ", ".join(rule.name for rule in self._checks)

    def _without(self, context: RequestContext, keys: list[Key], why: str) -> Verdict:
        """The service is away: each rule does what its failure mode says; the first that keeps the request out wins."""
        assert self._service is not None
        remembered = self._service.remembered
        for rule, key, stats in zip(self._checks, keys, self._check_stats, strict=True):
            mode, last = rule.mode, None
            if mode is Mode.LAST_DECISION:
                last = remembered.get(rule.name, key)
                if last is None:
                    mode = rule.otherwise
            stats.without(mode.value.lower())
            if last is not None:
                said = "allowed" if last.allowed else "denied"
                _note(context.record, f"{rule.name}: {said}, as last time, since the policy service is away ({why})")
                if not last.allowed:
                    return _denied(rule.name, last)
            elif mode is Mode.OPEN:
                _note(context.record, f"{rule.name}: let in, since the policy service is away ({why})")
            else:
                return _unavailable(rule.name, why, context.record)
        return None


def _no_slot(rule: SlotRule, refusal: Refusal, record: RequestRecord) -> LocalReply:
    if refusal is Refusal.AWAY:
        rule.stats.without(rule.mode.value.lower())
        return _unavailable(rule.name, rule.reason(), record)
    rule.stats.denied += 1
    _note(record, f"{rule.name}: denied, {rule.why_full()}")
    body = f"{rule.name}: the limit is reached\n".encode()
    return LocalReply(
        _TOO_MANY, Flag.RATE_LIMITED, f"policy_denied{{{rule.name}}}", body, ((b"retry-after", RETRY_AFTER),)
    )


def _denied(rule: str, answer: Answer) -> LocalReply:
    """What the service wants the client to be told."""
    status = answer.status
    flag = Flag.RATE_LIMITED if status == _TOO_MANY else Flag.UNAUTHORIZED_EXTERNAL_SERVICE
    body = answer.body or f"{rule}: denied\n".encode()
    return LocalReply(status, flag, f"policy_denied{{{rule}}}", body, answer.headers)


def _unavailable(rule: str, why: str, record: RequestRecord) -> LocalReply:
    _note(record, f"{rule}: kept out, since the policy service is away ({why})")
    details = f"policy_unavailable{{{rule}}}: the policy service is away: {why}"
    body = f"{rule}: the policy service is away\n".encode()
    return LocalReply(_UNAVAILABLE, Flag.UNAUTHORIZED_EXTERNAL_SERVICE, details, body)


def _note(record: RequestRecord, text: str) -> None:
    notes = record.notes
    notes[NOTE] = f"{notes[NOTE]}; {text}" if NOTE in notes else text
