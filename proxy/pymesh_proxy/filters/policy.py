"""The policy question of the inbound sidecar: may this request go on to the app?

Rules of kind `slots` are answered from slots that this sidecar holds (slots.py): a set operation, no waiting; those of
kind `rate` from tokens that it has in stock (rates.py). A request that finds none waits for the policy service to grant
more, or is refused where it has said that there are none. Rules of kind `check` are answered from what the service said
before, for as long and as often as it said that it may be (remembered.py); what is left is asked about, all in one
question. While the service is away, each rule's failure mode decides; rates that go on then do so from where they stood
(bucket.py). A rule on a dry run never keeps a request out: it is counted, and noted in the request's record, that it
would.
"""

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from pymesh import policy_answers
from pymesh.grpc.status import Code, RpcError, TooManyCallsError
from pymesh.policy_api import RULES_EXTENSION, TELL, UNDECIDED_EXTENSION
from pymesh.xds.filter_names import HTTP_JWT_AUTHN
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.authz import Answer, AnswerError, question, read_answer
from pymesh_proxy.filters.base import Later, LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.rates import RateRule, RateSettings
from pymesh_proxy.filters.remembered import NO_ATTRIBUTES, Attributes, Kept, Key, key_of
from pymesh_proxy.filters.services import PolicyService, Services
from pymesh_proxy.filters.slots import SlotRule, SlotSettings
from pymesh_proxy.filters.standing import Mode
from pymesh_proxy.filters.waiting import Refusal
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
    by: Attributes = NO_ATTRIBUTES
    dry_run: bool = False
    remembered: bool = False


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The filter's configuration. `timeout`: the longest that a request waits for the service, in seconds."""

    cluster: str
    timeout: float
    rules: tuple[SlotSettings | RateSettings | CheckSettings, ...]


class _Check(NamedTuple):
    """A rule of kind `check` in force: its settings, its counters, and what every request that it lets in is noted."""

    rule: CheckSettings
    stats: PolicyStats
    allowed: str


class Unanswered(NamedTuple):
    """A rule that has to be asked about, and what its last answers are told apart by for this request."""

    rule: CheckSettings
    key: Key
    stats: PolicyStats


class PolicyFilter:
    """The filter of one connection manager. It serves once it is in force: after the first `connect`."""

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self._service: PolicyService | None = None
        self._leased: tuple[SlotRule | RateRule, ...] = ()
        self._checks: tuple[_Check, ...] = ()
        self._dry = frozenset(rule.name for rule in settings.rules if rule.dry_run)

    @property
    def leases(self) -> bool:
        """Whether there are rules of which requests hold something, so that their ends matter (`on_complete`)."""
        return not all(isinstance(rule, CheckSettings) for rule in self.settings.rules)

    def connect(self, services: Services) -> None:
        """See filters.base: the filter is in force."""
        service = self._service = services.policy(self.settings.cluster, self.settings.timeout)
        checks = [rule for rule in self.settings.rules if isinstance(rule, CheckSettings)]
        leased = [rule for rule in self.settings.rules if not isinstance(rule, CheckSettings)]
        self._leased = tuple(service.leased(rule) for rule in leased)
        self._checks = tuple(
            _Check(rule, service.stats(rule.name), f"{rule.name}: allowed, as remembered") for rule in checks
        )
        if any(rule.remembered for rule in checks):
            service.hear_of_changes()

    def on_request(self, context: RequestContext) -> Verdict | Awaitable[Verdict]:
        """See filters.base. The common path is a slot that is held: no task, nothing awaited."""
        record = context.record
        if self._service is None:
            raise RuntimeError("a policy filter was asked before it was in force")
        for index, rule in enumerate(self._leased):
            if rule.take(record):
                if index:
                    _note(record, rule.note())
                else:
                    record.notes[NOTE] = rule.note()
                continue
            refusal = rule.waiting.refusal()
            if refusal is None:
                return Later(partial(self._ask, context, index))
            if (reply := self._refuse(rule, refusal, record)) is not None:
                return reply
        if not self._checks:
            return None
        unanswered, reply = self._recall(context)
        return Later(partial(self._check, context, unanswered)) if reply is None and unanswered else reply

    def on_complete(self, record: RequestRecord) -> None:
        """See filters.base: whatever became of the request, its slots are free."""
        for rule in self._leased:
            rule.release(record)

    # --- What takes time ---

    async def _ask(self, context: RequestContext, first: int) -> Verdict:
        """Wait for a slot of rule number `first`, then go on with the next; all of it within the one timeout."""
        record = context.record
        assert self._service is not None
        clock = self._service.clock
        until = clock() + self.settings.timeout
        for rule in self._leased[first:]:
            if rule.take(record):
                _note(record, rule.note())
                continue
            begun = clock()
            refusal = rule.waiting.refusal() or await self._wait(rule, record, until)
            if refusal is None:
                _note(record, f"{rule.note()}, asked, {(clock() - begun) * 1000:.1f} ms")
            elif (reply := self._refuse(rule, refusal, record)) is not None:
                return reply
        unanswered, reply = self._recall(context)
        return await self._check(context, unanswered, until) if reply is None and unanswered else reply

    async def _wait(self, rule: SlotRule | RateRule, record: RequestRecord, until: float) -> Refusal | None:
        service = self._service
        assert service is not None
        begun = service.clock()
        try:
            return await service.wait(rule, record, until - begun)
        finally:
            rule.stats.asked += 1
            rule.stats.seconds += service.clock() - begun

    async def _check(
        self, context: RequestContext, unanswered: Sequence[Unanswered], until: float | None = None
    ) -> Verdict:
        """Ask about rules of kind `check`, all at once."""
        service = self._service
        assert service is not None
        begun = service.clock()
        left = self.settings.timeout if until is None else until - begun
        if service.away:
            return self._without(context, unanswered, service.away)
        if left < LEAST_TIME:
            return self._without(context, unanswered, "the wait for slots and tokens took it", "no time is left to ask")
        asked = {RULES_EXTENSION: ",".join(each.rule.name for each in unanswered), UNDECIDED_EXTENSION: TELL}
        epoch = service.remembered.epoch
        try:
            answer = read_answer(await service.check(question(context, asked, namespaces=(HTTP_JWT_AUTHN,)), left))
            if answer.changes_headers:
                raise AnswerError("header changes are not supported here")
            problem = "it could not decide" if answer.error else ""
        except TooManyCallsError as error:
            return self._without(context, unanswered, error.status.message, "too many questions are open")
        except RpcError as error:
            answer, problem = None, error.status.message or str(error)
        except AnswerError as error:
            answer, problem = None, str(error)
            service.lost(problem)
        spent = service.clock() - begun
        for each in unanswered:
            each.stats.asked += 1
            each.stats.seconds += spent
        if answer is None or problem:
            return self._without(context, unanswered, problem)
        known = service.remembered.follow(answer.ours.epoch, asked_in=epoch)
        return self._answered(context, unanswered, answer, f"asked, {spent * 1000:.1f} ms", keep=known)

    def _recall(self, context: RequestContext) -> tuple[list[Unanswered], LocalReply | None]:
        """The rules about this request of which nothing is known yet, and the refusal that is known."""
        service = self._service
        assert service is not None
        remembered, now, record = service.remembered, service.clock(), context.record
        unanswered: list[Unanswered] = []
        for rule, stats, allowed in self._checks:
            key = key_of(context, rule.by.read)
            if key is None:
                continue
            kept = remembered.fresh(rule.name, rule.by, key, context, now)
            if kept is None:
                unanswered.append(Unanswered(rule, key, stats))
                continue
            stats.remembered += 1
            if kept.lets_in:
                stats.allowed += 1
                _note(record, allowed)
            elif rule.name in kept.answer.ours.would_refuse:
                _note_dry_run(record, rule.name, stats, "refused, as remembered")
            else:
                stats.denied += 1
                _note(record, f"{rule.name}: denied, as remembered")
                return unanswered, _denied_again(rule, kept, now)
        return unanswered, None

    def _answered(
        self, context: RequestContext, unanswered: Sequence[Unanswered], answer: Answer, how: str, *, keep: bool
    ) -> Verdict:
        """Do as the service says; remember it, if we are to `keep` it."""
        assert self._service is not None
        remembered, now = self._service.remembered, self._service.clock()
        ours = answer.ours
        for rule, key, stats in unanswered:
            if rule.name in ours.undecided:
                continue
            if rule.name in ours.would_refuse:
                _note_dry_run(context.record, rule.name, stats, "refused")
            elif answer.allowed:
                stats.allowed += 1
            elif ours.rule in {rule.name, ""}:
                stats.denied += 1
            else:
                continue  # another rule denied it: nothing was said of this one
            if keep:
                remembered.put(rule.name, rule.by, key, answer, context=context, now=now)
        decided = [each for each in unanswered if each.rule.name not in ours.undecided]
        names = ", ".join(each.rule.name for each in decided) if answer.allowed else _denier(answer, unanswered)
        if names:
            _note(context.record, f"{names}: {'allowed' if answer.allowed else 'denied'}, {how}")
        if not answer.allowed:
            return _denied(_denier(answer, unanswered), answer)
        for each in unanswered:
            if (why := ours.undecided.get(each.rule.name)) is not None:
                reply = self._without(context, [each], why, "the check has failed")
                if reply is not None:
                    return reply
        return None

    def _without(
        self,
        context: RequestContext,
        unanswered: Sequence[Unanswered],
        why: str,
        what: str = "the policy service is away",
    ) -> Verdict:
        """Nobody decides: each rule does what its failure mode says; the first that keeps the request out wins."""
        assert self._service is not None
        remembered, now = self._service.remembered, self._service.clock()
        for each in unanswered:
            rule, key, stats = each
            mode, last = rule.mode, None
            if mode is Mode.LAST_DECISION:
                last = remembered.last(rule.name, rule.by, key, context)
                if last is None:
                    mode = rule.otherwise
            stats.without(mode.value.lower())
            if last is not None:
                reply = _as_last_time(each, last, now, context.record, f"since {what} ({why})")
            elif mode is Mode.OPEN:
                _note(context.record, f"{rule.name}: let in, since {what} ({why})")
                reply = None
            elif rule.dry_run:
                _note_dry_run(context.record, rule.name, stats, f"kept out, since {what} ({why})")
                reply = None
            else:
                reply = _unavailable(rule.name, why, context.record, what)
            if reply is not None:
                return reply
        return None

    def _refuse(self, rule: SlotRule | RateRule, refusal: Refusal, record: RequestRecord) -> LocalReply | None:
        """The refusal, unless the rule is on a dry run."""
        if rule.name in self._dry:
            what = "refused" if refusal is Refusal.LIMIT else "kept out: nobody counts"
            _note_dry_run(record, rule.name, rule.stats, what)
            return None
        assert self._service is not None
        return _refusal(rule, refusal, record, self._service.clock())


def _denier(answer: Answer, unanswered: Iterable[Unanswered]) -> str:
    return answer.ours.rule or ", ".join(each.rule.name for each in unanswered)


def _refusal(rule: SlotRule | RateRule, refusal: Refusal, record: RequestRecord, now: float) -> LocalReply:
    if refusal is Refusal.AWAY:
        rule.stats.without(rule.standing.mode.value.lower())
        return _unavailable(rule.name, rule.standing.reason, record)
    rule.stats.denied += 1
    _note(record, f"{rule.name}: denied, {rule.why_full()}")
    return _limited(rule.name, *rule.refused(now))


def _limited(rule: str, sentence: str, fields: policy_answers.Fields) -> LocalReply:
    """What a caller is told for whom there is no slot or token."""
    return LocalReply(
        _TOO_MANY,
        Flag.RATE_LIMITED,
        f"policy_denied{{{rule}}}",
        f"{sentence}\n".encode(),
        tuple((name.encode(), value.encode()) for name, value in fields),
        grpc_status=Code.RESOURCE_EXHAUSTED,
    )


def _as_last_time(asked: Unanswered, last: Kept, now: float, record: RequestRecord, since: str) -> LocalReply | None:
    """Nobody can be asked, `since` when: a rate goes on from where it stood, any other answer is given again."""
    rule = asked.rule
    allowed, how = last.answer.allowed, "as last time"
    if last.bucket is not None:
        allowed, how = last.bucket.take(now), "as the rate goes on here"
    if not allowed and rule.dry_run:
        _note_dry_run(record, rule.name, asked.stats, f"denied, {how}, {since}")
        return None
    _note(record, f"{rule.name}: {'allowed' if allowed else 'denied'}, {how}, {since}")
    return None if allowed else _denied_again(rule, last, now)


def _denied_again(rule: CheckSettings, kept: Kept, now: float) -> LocalReply:
    """What the service had said, and of a rate how long the wait is by now."""
    level = kept.answer.ours.rates.get(rule.name)
    if kept.bucket is None or level is None:
        return _denied(rule.name, kept.answer)
    name, requests, period, wait = rule.name, level.requests, level.period, kept.bucket.wait(now)
    sentence = policy_answers.rate_sentence(name, requests, period, burst=level.burst, by=rule.by.names, wait=wait)
    return _limited(name, sentence, policy_answers.rate_fields(name, requests, period, wait))


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


def _note_dry_run(record: RequestRecord, rule: str, stats: PolicyStats, what: str) -> None:
    """Count and note what a rule on a dry run would have done."""
    stats.would_deny += 1
    _note(record, f"{rule}: would be {what} (dry run)")


def _note(record: RequestRecord, text: str) -> None:
    notes = record.notes
    before = notes.get(NOTE)
    notes[NOTE] = text if before is None else f"{before}; {text}"
