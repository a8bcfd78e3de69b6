"""The policy question of the inbound sidecar: may this request go on to the app?

Rules of kind `slots` are answered from slots that this sidecar holds (slots.py): a set operation, no waiting; those of
kind `rate` from tokens that it has in stock (rates.py). A request that finds none waits for the policy service to grant
more, or is refused where it has said that there are none. Rules of kind `check` are answered from what the service said
before, for as long and as often as it said that it may be (remembered.py); what is left is asked about, all in one
question. While the service is away, each rule's failure mode decides. A rule on a dry run never keeps a request out: it
is counted, and noted in the request's record, that it would.
"""

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from pymesh.grpc.status import Code, RpcError
from pymesh.policy_api import RULES_EXTENSION, TELL, UNDECIDED_EXTENSION
from pymesh.policy_attributes import JWT_METADATA
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.authz import Answer, AnswerError, question, read_answer
from pymesh_proxy.filters.base import Later, LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.rates import RateRule, RateSettings
from pymesh_proxy.filters.remembered import NOTHING, By, Key, key_of
from pymesh_proxy.filters.services import PolicyService, Services
from pymesh_proxy.filters.slots import Mode, Refusal, SlotRule, SlotSettings
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from pymesh_proxy.telemetry.record import RequestRecord

# Key of RequestRecord.notes.
NOTE: Final = "policy"
# Seconds: with less than this left, a request is not asked about; a service cannot answer in it.
LEAST_TIME: Final = 0.001
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """A rule of kind `check`: each request is asked about.

    `by`: what last answers are kept by; `remembered`: answers may be good for others for long, so that it matters to
    hear at once when the rules change.
    """

    name: str
    mode: Mode
    otherwise: Mode
    by: By = NOTHING
    dry_run: bool = False
    remembered: bool = False


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The filter's configuration. `timeout`: the longest that a request waits for the service, in seconds."""

    cluster: str
    timeout: float
    rules: tuple[SlotSettings | RateSettings | CheckSettings, ...]


class Open(NamedTuple):
    """A rule that has to be asked about, and what its last answers are told apart by for this request."""

    rule: CheckSettings
    key: Key
    stats: PolicyStats


class PolicyFilter:
    """The filter of one connection manager. It serves once it is in force: after the first `connect`."""

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self._service: PolicyService | None = None
        self._slots: tuple[SlotRule | RateRule, ...] = ()
        self._checks = tuple(rule for rule in settings.rules if isinstance(rule, CheckSettings))
        self._check_stats: tuple[PolicyStats, ...] = ()
        self._dry = frozenset(rule.name for rule in settings.rules if rule.dry_run)

    def connect(self, services: Services) -> None:
        """See filters.base: the filter is in force."""
        service = self._service = services.policy(self.settings.cluster, self.settings.timeout)
        leased = [rule for rule in self.settings.rules if not isinstance(rule, CheckSettings)]
        self._slots = tuple(service.leased(rule) for rule in leased)
        self._check_stats = tuple(service.stats(rule.name) for rule in self._checks)
        if any(rule.remembered for rule in self._checks):
            service.hear_of_changes()

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
            if refusal is None:
                return Later(partial(self._ask, context, index))
            if (reply := self._no_slot(rule, refusal, record)) is not None:
                return reply
        if not self._checks:
            return None
        left, reply = self._recall(context)
        return Later(partial(self._check, context, left)) if reply is None and left else reply

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
            if refusal is None:
                _note(record, f"{rule.note()}, asked, {(clock() - begun) * 1000:.1f} ms")
            elif (reply := self._no_slot(rule, refusal, record)) is not None:
                return reply
        left, reply = self._recall(context)
        return await self._check(context, left, until) if reply is None and left else reply

    async def _wait(self, rule: SlotRule | RateRule, record: RequestRecord, until: float) -> Refusal | None:
        service = self._service
        assert service is not None
        begun = service.clock()
        try:
            return await service.wait(rule, record, until - begun)
        finally:
            rule.stats.asked += 1
            rule.stats.seconds += service.clock() - begun

    async def _check(self, context: RequestContext, about: Sequence[Open], until: float | None = None) -> Verdict:
        """Ask `about` rules of kind `check`, all at once."""
        service = self._service
        assert service is not None
        begun = service.clock()
        left = self.settings.timeout if until is None else until - begun
        if service.away or left < LEAST_TIME:
            return self._without(context, about, service.away or "the wait for a slot has taken all the time")
        asked = {RULES_EXTENSION: ",".join(each.rule.name for each in about), UNDECIDED_EXTENSION: TELL}
        epoch = service.remembered.epoch
        try:
            answer = read_answer(await service.check(question(context, asked, namespaces=(JWT_METADATA,)), left))
            if answer.changes_headers:
                raise AnswerError("header changes are not supported here")
            problem = "it could not decide" if answer.error else ""
        except RpcError as error:
            answer, problem = None, error.status.message or str(error)
        except AnswerError as error:
            answer, problem = None, str(error)
            service.lost(problem)
        spent = service.clock() - begun
        for each in about:
            each.stats.asked += 1
            each.stats.seconds += spent
        if answer is None or problem:
            return self._without(context, about, problem)
        known = service.remembered.heard(answer.epoch, since=epoch)
        return self._answered(context, about, answer, f"asked, {spent * 1000:.1f} ms", keep=known)

    def _recall(self, context: RequestContext) -> tuple[list[Open], LocalReply | None]:
        """The rules about this request of which nothing is known yet, and the refusal that is known."""
        service = self._service
        assert service is not None
        remembered, now, record = service.remembered, service.clock(), context.record
        left: list[Open] = []
        for rule, stats in zip(self._checks, self._check_stats, strict=True):
            key = key_of(context, rule.by.read)
            if key is None:
                continue
            answer = remembered.fresh(rule.name, context, now)
            if answer is None:
                left.append(Open(rule, key, stats))
                continue
            stats.remembered += 1
            if rule.name in answer.would_refuse:
                _would(record, rule.name, stats, "refused, as remembered")
            elif answer.allowed:
                stats.allowed += 1
                _note(record, f"{rule.name}: allowed, as remembered")
            else:
                stats.denied += 1
                _note(record, f"{rule.name}: denied, as remembered")
                return left, _denied(rule.name, answer)
        return left, None

    def _answered(
        self, context: RequestContext, about: Sequence[Open], answer: Answer, how: str, *, keep: bool
    ) -> Verdict:
        """Do as the service says; remember it, if we are to `keep` it."""
        assert self._service is not None
        remembered, now = self._service.remembered, self._service.clock()
        for rule, key, stats in about:
            if rule.name in answer.undecided:
                continue
            if rule.name in answer.would_refuse:
                _would(context.record, rule.name, stats, "refused")
            elif answer.allowed:
                stats.allowed += 1
            elif answer.rule in {rule.name, ""}:
                stats.denied += 1
            else:
                continue  # another rule denied it: nothing was said of this one
            if keep:
                remembered.put(rule.name, rule.by, key, answer, context=context, now=now)
        decided = [each for each in about if each.rule.name not in answer.undecided]
        names = ", ".join(each.rule.name for each in decided) if answer.allowed else _denier(answer, about)
        if names:
            _note(context.record, f"{names}: {'allowed' if answer.allowed else 'denied'}, {how}")
        if not answer.allowed:
            return _denied(_denier(answer, about), answer)
        for each in about:
            if (why := answer.undecided.get(each.rule.name)) is not None:
                reply = self._without(context, [each], why, "the check has failed")
                if reply is not None:
                    return reply
        return None

    def _without(
        self, context: RequestContext, about: Sequence[Open], why: str, what: str = "the policy service is away"
    ) -> Verdict:
        """Nobody decides: each rule does what its failure mode says; the first that keeps the request out wins."""
        assert self._service is not None
        remembered = self._service.remembered
        for rule, key, stats in about:
            mode, last = rule.mode, None
            if mode is Mode.LAST_DECISION:
                last = remembered.last(rule.name, rule.by, key, context)
                if last is None:
                    mode = rule.otherwise
            stats.without(mode.value.lower())
            if last is not None:
                said = "allowed" if last.allowed else "denied"
                _note(context.record, f"{rule.name}: {said}, as last time, since {what} ({why})")
                reply = None if last.allowed else _denied(rule.name, last)
            elif mode is Mode.OPEN:
                _note(context.record, f"{rule.name}: let in, since {what} ({why})")
                reply = None
            elif rule.dry_run:
                _would(context.record, rule.name, stats, f"kept out, since {what} ({why})")
                reply = None
            else:
                reply = _unavailable(rule.name, why, context.record, what)
            if reply is not None:
                return reply
        return None

    def _no_slot(self, rule: SlotRule | RateRule, refusal: Refusal, record: RequestRecord) -> LocalReply | None:
        """The refusal, unless the rule is on a dry run."""
        if rule.name in self._dry:
            _would(record, rule.name, rule.stats, "refused" if refusal is Refusal.LIMIT else "kept out: nobody counts")
            return None
        return _no_slot(rule, refusal, record)


def _denier(answer: Answer, about: Iterable[Open]) -> str:
    return answer.rule or ", ".join(each.rule.name for each in about)


def _no_slot(rule: SlotRule | RateRule, refusal: Refusal, record: RequestRecord) -> LocalReply:
    if refusal is Refusal.AWAY:
        rule.stats.without(rule.mode.value.lower())
        return _unavailable(rule.name, rule.reason(), record)
    rule.stats.denied += 1
    _note(record, f"{rule.name}: denied, {rule.why_full()}")
    sentence, fields = rule.refused()
    return LocalReply(
        _TOO_MANY,
        Flag.RATE_LIMITED,
        f"policy_denied{{{rule.name}}}",
        f"{sentence}\n".encode(),
        tuple((name.encode(), value.encode()) for name, value in fields),
        grpc_status=Code.RESOURCE_EXHAUSTED,
    )


def _denied(rule: str, answer: Answer) -> LocalReply:
    """What the service wants the client to be told."""
    status = answer.status
    flag = Flag.RATE_LIMITED if status == _TOO_MANY else Flag.UNAUTHORIZED_EXTERNAL_SERVICE
    body = answer.body or f"{rule}: denied\n".encode()
    return LocalReply(status, flag, f"policy_denied{{{rule}}}", body, answer.headers, answer.grpc_status)


def _unavailable(rule: str, why: str, record: RequestRecord, what: str = "the policy service is away") -> LocalReply:
    _note(record, f"{rule}: kept out, since {what} ({why})")
    details = f"policy_unavailable{{{rule}}}: {what}: {why}"
    body = f"{rule}: {what}\n".encode()
    return LocalReply(_UNAVAILABLE, Flag.UNAUTHORIZED_EXTERNAL_SERVICE, details, body)


def _would(record: RequestRecord, rule: str, stats: PolicyStats, what: str) -> None:
    """A rule on a dry run has had its say."""
    stats.would_deny += 1
    _note(record, f"{rule}: would be {what} (dry run)")


def _note(record: RequestRecord, text: str) -> None:
    notes = record.notes
    notes[NOTE] = f"{notes[NOTE]}; {text}" if NOTE in notes else text
