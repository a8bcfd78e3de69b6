"""Yes or no: a question about one request, answered by rates and by checks in Python together."""

import asyncio
from collections.abc import Callable, Sequence

from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from pymesh import policy_api
from pymesh.checks import Request, Verdict
from pymesh_controlplane.policy import checks, ratelimit
from pymesh_controlplane.policy.buckets import NANOSECONDS
from pymesh_controlplane.policy.checks import Decision, Limits
from pymesh_controlplane.policy.metrics import Counts
from pymesh_controlplane.policy.python_checks import CheckFailedError, PythonChecks
from pymesh_controlplane.policy.rules import Code, Rule, Rules


class Questions:
    """The rates, and the checks in Python.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, counts: Counts, clock: Callable[[], float]) -> None:
        self.limits = Limits()
        self.python = PythonChecks(clock)
        self._counts = counts
        self._clock = clock

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
        code: dict[str, Code] = {}
        for name in asked:
            rule = rules.by_name.get(name)
            if rule is not None and isinstance(rule.limit, Code):
                code[name] = rule.limit
        decision = self.limits.decide(asked, attributes, self._now(), spend=not code)
        if decision.refused_by or not code:
            return decision
        request = checks.request_of(attributes)
        said = await asyncio.gather(*(self._ask(limit, request) for limit in code.values()))
        tell = attributes.context_extensions.get(policy_api.UNDECIDED_EXTENSION) == policy_api.TELL
        python = checks.of_python(dict(zip(code, said, strict=True)), rules, tell=tell)
        if python.refused_by:
            return python
        return checks.both(python, self.limits.decide(asked, attributes, self._now()))

    async def _ask(self, limit: Code, request: Request) -> Verdict | str:
        """What a check in Python says, or why it says nothing."""
        try:
            return await self.python.ask(limit.function, request, limit.timeout)
        except CheckFailedError as error:
            return f"{limit.function}: {error}"

    def rate_limit(self, request: RateLimitRequest, rules: Rules, may_ask: Callable[[Rule], None]) -> RateLimitResponse:
        """What RateLimits say, counted. `may_ask` raises what it likes where the caller may not ask about a rule.

        Raises:
            ValueError: the request makes no sense.
        """
        asked = ratelimit.asked_by(request, rules)
        for one in asked:
            may_ask(one.rule)
        told = ratelimit.decide(asked, self.limits, self._now())
        counted = self._counts.checks
        counted.update((name, "would_deny") for name in told.would_refuse)
        if told.waits:
            counted.update({(asked[place].rule.name, "denied") for place in told.waits})
        else:
            counted.update({(one.rule.name, "allowed") for one in asked if one.rule.name not in told.would_refuse})
        return ratelimit.answer(told, len(request.descriptors))

    def _now(self) -> int:
        return int(self._clock() * NANOSECONDS)
