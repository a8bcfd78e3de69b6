"""Yes or no: a question about one request, answered by rates and by checks in Python together."""

import asyncio
from collections.abc import Callable, Sequence

from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from pymesh import policy_api
from pymesh.checks import Request, Verdict
from pymesh_controlplane.policy import checks, ratelimit
from pymesh_controlplane.policy.buckets import Spend, Spent, nanoseconds
from pymesh_controlplane.policy.checks import Decision, Limits
from pymesh_controlplane.policy.metrics import Counts
from pymesh_controlplane.policy.python_checks import CheckFailedError, PythonChecks
from pymesh_controlplane.policy.rules import Code, Rule, Rules
from pymesh_controlplane.policy.store import Question, StoreError
from pymesh_controlplane.policy.till import Till


class Questions:
    """The rates, and the checks in Python.

    Args:
        clock: seconds that never go back.
        till: where rates are spent together with other replicas; None if there are no others.
    """

    def __init__(self, counts: Counts, clock: Callable[[], float], till: Till | None = None) -> None:
        self.limits = Limits()
        self.python = PythonChecks(clock)
        self._counts = counts
        self._clock = clock
        self._till = till

    async def decide(self, asked: Sequence[str], attributes: AttributeContext, rules: Rules) -> Decision:
        """The decision of the rules that are `asked` about, counted."""
        decision = await self._decision(asked, attributes, rules)
        counted = self._counts.checks
        counted.update((name, "would_deny") for name in decision.would_refuse)
        counted.update((name, "undecided") for name in decision.undecided)
        if decision.refused_by:
            counted[decision.refused_by, "denied"] += 1
        else:
            others = {*decision.rules} - {*decision.would_refuse} - decision.undecided.keys()
            counted.update((name, "allowed") for name in others)
        return decision

    async def _decision(self, asked: Sequence[str], attributes: AttributeContext, rules: Rules) -> Decision:
        """Rates refuse before checks in Python have any work, and are spent after those have let the request in."""
        # Others may come into force while a check in Python works: nobody knows whether the caller may ask about those.
        asked = [name for name in asked if name in rules.by_name]
        code: dict[str, Code] = {}
        for name in asked:
            rule = rules.by_name.get(name)
            if rule is not None and isinstance(rule.limit, Code):
                code[name] = rule.limit
        tell = attributes.context_extensions.get(policy_api.UNDECIDED_EXTENSION) == policy_api.TELL
        decision = await self._rates(asked, attributes, rules, tell=tell, look=bool(code))
        if decision.refused_by or not code:
            return decision
        request = checks.request_of(attributes)
        said = await asyncio.gather(*(self._ask(limit, request) for limit in code.values()))
        python = checks.of_python(dict(zip(code, said, strict=True)), rules, tell=tell)
        if python.refused_by:
            return python
        return checks.both(python, await self._rates(asked, attributes, rules, tell=tell))

    async def _rates(
        self, asked: Sequence[str], attributes: AttributeContext, rules: Rules, *, tell: bool, look: bool = False
    ) -> Decision:
        """What the rates say, which are spent unless this is only to `look`."""
        if self._till is None:
            return self.limits.decide(asked, attributes, self._now(), spend=not look)
        wanted = self.limits.wanted(asked, attributes)
        if not wanted:
            return Decision(())
        try:
            spent = await self._till.ask(Question(wanted, look))
        except StoreError as error:
            return checks.of_python({one.rule: str(error) for one in wanted}, rules, tell=tell)
        self._note(wanted, spent)
        return checks.of_rates(wanted, spent)

    def _note(self, wanted: Sequence[Spend], spent: Sequence[Spent]) -> None:
        for one, each in zip(wanted, spent, strict=True):
            if each.overflow and (bucket := self.limits.buckets.get(one.rule)) is not None:
                bucket.overflows += 1

    async def _ask(self, limit: Code, request: Request) -> Verdict | str:
        """What a check in Python says, or why it says nothing."""
        try:
            return await self.python.ask(limit.function, request, limit.timeout)
        except CheckFailedError as error:
            return f"{limit.function}: {error}"

    async def rate_limit(
        self, request: RateLimitRequest, rules: Rules, may_ask: Callable[[Rule], None]
    ) -> RateLimitResponse:
        """What RateLimits say, counted. `may_ask` raises what it likes where the caller may not ask about a rule.

        Raises:
            ValueError: the request makes no sense.
        """
        asked = ratelimit.asked_by(request, rules)
        for one in asked:
            may_ask(one.rule)
        told = await self._told(asked)
        counted = self._counts.checks
        counted.update((name, "would_deny") for name in told.would_refuse)
        counted.update({(asked[place].rule.name, "undecided") for place in told.undecided})
        if told.waits:
            counted.update({(asked[place].rule.name, "denied") for place in told.waits.keys() - told.undecided})
        elif not told.undecided:
            counted.update({(one.rule.name, "allowed") for one in asked if one.rule.name not in told.would_refuse})
        return ratelimit.answer(told, len(request.descriptors))

    async def _told(self, asked: tuple[ratelimit.Asked, ...]) -> ratelimit.Told:
        if self._till is None or not asked:
            return ratelimit.decide(asked, self.limits, self._now())
        wanted = ratelimit.wanted(asked)
        try:
            spent = await self._till.ask(Question(wanted))
        except StoreError as error:
            return ratelimit.undecided(asked, str(error))
        self._note(wanted, spent)
        return ratelimit.told_of(asked, [each.wait for each in spent], tuple(each.left for each in spent))

    def _now(self) -> int:
        return nanoseconds(self._clock())
