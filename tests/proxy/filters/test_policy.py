"""The policy filter's order and budget, with a service whose clock the test holds."""

from collections.abc import Awaitable

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from pymesh.policy_api import Grant
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.base import LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.policy import NOTE, CheckSettings, PolicyFilter, PolicySettings
from pymesh_proxy.filters.rates import RateSettings
from pymesh_proxy.filters.remembered import Remembered, attributes_of
from pymesh_proxy.filters.slots import SlotRule, SlotSettings
from pymesh_proxy.filters.standing import Mode
from pymesh_proxy.filters.waiting import Refusal, lose
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from pymesh_proxy.telemetry.record import RequestRecord
from tests.proxy.filters.test_remembered import context


class Service:
    """See filters.services.PolicyService; each wait for a slot takes `delay` seconds and succeeds."""

    def __init__(self, delay: float = 0.0) -> None:
        self.remembered = Remembered()
        self.away = ""
        self.now = 100.0
        self.answer = CheckResponse()
        self.within: list[float] = []
        self.hears = False
        self._delay = delay

    def policy(self, cluster: str, timeout: float) -> "Service":
        return self

    def authorization(self, cluster: str) -> None:
        raise AssertionError(cluster)

    def leased(self, settings: SlotSettings | RateSettings) -> SlotRule:
        assert isinstance(settings, SlotSettings)
        return SlotRule(settings, PolicyStats(), lambda _: None)

    def stats(self, rule: str) -> PolicyStats:
        return PolicyStats()

    def clock(self) -> float:
        return self.now

    async def wait(self, rule: SlotRule, record: RequestRecord, within: float) -> Refusal | None:
        self.within.append(within)
        self.now += self._delay
        rule.answer(Grant(rule.name, 1, 9), now=0.0, in_time=True)
        assert rule.take(record)
        return None

    async def check(self, request: bytes, within: float) -> bytes:
        self.within.append(within)
        return self.answer.SerializeToString()

    def lost(self, why: str) -> None:
        self.away = why

    def hear_of_changes(self) -> None:
        self.hears = True


def new(service: Service) -> PolicyFilter:
    rules = (
        SlotSettings("a", 9, Mode.CLOSED, Mode.CLOSED),
        SlotSettings("b", 9, Mode.CLOSED, Mode.CLOSED),
        CheckSettings("c", Mode.CLOSED, Mode.CLOSED),
    )
    found = PolicyFilter(PolicySettings("policy", 0.2, rules))
    found.connect(service)  # type: ignore[arg-type]  # no authorization service
    return found


async def verdict(found: PolicyFilter, asked: RequestContext) -> Verdict:
    said = found.on_request(asked)
    return await said if isinstance(said, Awaitable) else said


async def test_all_that_a_request_waits_for_shares_one_timeout() -> None:
    service = Service(delay=0.05)
    asked = context()
    assert await verdict(new(service), asked) is None
    assert service.within == pytest.approx([0.2, 0.15, 0.1])
    assert asked.record.notes[NOTE] == (
        "a: slot 1 of 9, asked, 50.0 ms; b: slot 1 of 9, asked, 50.0 ms; c: allowed, asked, 0.0 ms"
    )


async def test_a_request_that_has_waited_for_long_enough_is_not_asked_about() -> None:
    service, asked = Service(delay=0.1), context()
    said = await verdict(new(service), asked)
    assert isinstance(said, LocalReply)
    assert (said.status, said.body) == (503, b"c: no time is left to ask\n")
    assert "since no time is left to ask (the wait for slots and tokens took it)" in asked.record.notes[NOTE]
    assert len(service.within) == 2
    assert not service.away  # it has answered each time


async def test_header_changes_are_refused() -> None:
    service = Service()
    service.answer.ok_response.headers_to_remove.append("authorization")
    said = await verdict(new(service), context(b"authorization: x\r\n"))
    assert isinstance(said, LocalReply)
    assert said.status == 503
    assert service.away == "header changes are not supported here"


def checking(service: Service, *rules: CheckSettings) -> PolicyFilter:
    found = PolicyFilter(PolicySettings("policy", 0.2, rules))
    found.connect(service)  # type: ignore[arg-type]  # no authorization service
    return found


def says(service: Service, about: dict[str, object], *, code: int = 0, status: int = 0) -> None:
    """What the service answers from now on."""
    service.answer = CheckResponse()
    service.answer.status.code = code
    if status:
        service.answer.denied_response.status.code = status  # type: ignore[assignment]  # an open enum
    service.answer.dynamic_metadata.update({"pymesh.policy": about})


MEMORY = {"valid_for": "30s", "valid_uses": 3, "attributes": ["source.principal"]}


async def test_what_is_remembered_is_not_asked_again() -> None:
    """For as many requests as the answer said, counting the one that was asked about."""
    service = Service()
    found = checking(service, CheckSettings("c", Mode.CLOSED, Mode.CLOSED))
    says(service, {"rule": "c", "epoch": "1", "rules": {"c": MEMORY}})
    for _ in range(4):
        asked = context()
        assert await verdict(found, asked) is None
    assert len(service.within) == 2
    assert asked.record.notes[NOTE] == "c: allowed, asked, 0.0 ms"
    asked = context()
    assert found.on_request(asked) is None
    assert asked.record.notes[NOTE] == "c: allowed, as remembered"


async def test_a_refusal_that_is_remembered_is_given_at_once_and_nothing_else_is_asked() -> None:
    service = Service()
    found = checking(
        service, CheckSettings("a", Mode.CLOSED, Mode.CLOSED), CheckSettings("c", Mode.CLOSED, Mode.CLOSED)
    )
    says(service, {"rule": "c", "epoch": "1", "rules": {"c": MEMORY}}, code=7, status=403)
    for _ in range(2):
        said = await verdict(found, context())
        assert isinstance(said, LocalReply)
        assert (said.status, said.grpc_status, said.details) == (403, 7, "policy_denied{c}")
    assert len(service.within) == 1


async def test_remembered_answers_go_with_their_epoch() -> None:
    service = Service()
    found = checking(service, CheckSettings("c", Mode.LAST_DECISION, Mode.OPEN))
    says(service, {"rule": "c", "epoch": "1", "rules": {"c": MEMORY}})
    await verdict(found, context())
    service.remembered.follow("2")  # as a heartbeat tells
    says(service, {"rule": "c", "epoch": "2", "rules": {"c": MEMORY}}, code=7, status=403)
    assert isinstance(await verdict(found, context()), LocalReply)


async def test_stale_answers_are_used_while_the_service_is_away_where_the_rule_says_so() -> None:
    service = Service()
    last, closed = CheckSettings("c", Mode.LAST_DECISION, Mode.CLOSED), CheckSettings("c", Mode.CLOSED, Mode.CLOSED)
    says(service, {"rule": "c", "epoch": "1", "rules": {"c": MEMORY}})
    await verdict(checking(service, last), context())
    service.now += 31
    service.away = "gone"
    assert await verdict(checking(service, last), context()) is None
    said = await verdict(checking(service, closed), context())
    assert isinstance(said, LocalReply)
    assert said.status == 503


async def test_only_rules_that_are_about_the_request_are_asked_about() -> None:
    service = Service()
    other = attributes_of(("request.path[/users/{*}]",))
    found = checking(service, CheckSettings("c", Mode.CLOSED, Mode.CLOSED, other))
    assert found.on_request(context()) is None
    assert service.within == []


async def test_on_a_dry_run_nobody_is_kept_out() -> None:
    """Neither by a limit that is reached, nor by a refusal, nor because nobody answers; each is counted."""
    service = Service()
    slots = SlotSettings("s", 9, Mode.CLOSED, Mode.CLOSED, dry_run=True)
    rate = CheckSettings("c", Mode.CLOSED, Mode.CLOSED, dry_run=True)
    found = PolicyFilter(PolicySettings("policy", 0.2, (slots, rate)))
    found.connect(service)  # type: ignore[arg-type]  # no authorization service
    (rule,) = found._leased
    rule.answer(Grant("s", 0, 0), now=0.0, in_time=True)
    says(service, {"rule": "c", "epoch": "1", "would_refuse": ["c"]})
    asked = context()
    assert await verdict(found, asked) is None
    note = asked.record.notes[NOTE]
    assert note.startswith("s: would be refused (dry run); c: would be refused (dry run)")
    assert rule.stats.would_deny == 1
    assert rule.stats.denied == 0
    lose(rule, "gone")
    service.away = "gone"
    asked = context()
    assert await verdict(found, asked) is None
    assert "c: would be kept out, since the policy service is away (gone) (dry run)" in asked.record.notes[NOTE]


async def test_a_limit_that_is_reached_says_so_in_the_fields_of_the_draft() -> None:
    found = new(Service())
    found._leased[0].answer(Grant("ConcurrencyLimit a/b", 0, 0), now=0.0, in_time=True)
    said = await verdict(found, context())
    assert isinstance(said, LocalReply)
    assert (said.status, said.grpc_status) == (429, 8)
    assert dict(said.headers) == {
        b"retry-after": b"1",
        b"ratelimit-policy": b'"a";q=0;qu="concurrent-requests"',
        b"ratelimit": b'"a";r=0',
    }


@pytest.mark.parametrize(
    ("mode", "otherwise", "status"),
    [(Mode.CLOSED, Mode.CLOSED, 503), (Mode.OPEN, Mode.CLOSED, 0), (Mode.LAST_DECISION, Mode.CLOSED, 503)],
)
async def test_where_a_check_fails_the_failure_mode_decides_here(mode: Mode, otherwise: Mode, status: int) -> None:
    service = Service()
    found = checking(service, CheckSettings("c", mode, otherwise, remembered=True))
    assert service.hears
    says(service, {"rule": "c", "epoch": "1", "undecided": {"c": "f: it took longer than 50 ms"}})
    asked = context()
    said = await verdict(found, asked)
    assert (said.status if isinstance(said, LocalReply) else 0) == status
    assert "since the check has failed (f: it took longer than 50 ms)" in asked.record.notes[NOTE]
    assert not service.away


async def test_where_a_check_fails_the_last_word_may_go_on_counting() -> None:
    service = Service()
    found = checking(service, CheckSettings("c", Mode.LAST_DECISION, Mode.CLOSED))
    says(service, {"rule": "c", "epoch": "1", "rules": {"c": {**MEMORY, "valid_for": "0s"}}})
    assert await verdict(found, context()) is None
    says(service, {"rule": "c", "epoch": "1", "undecided": {"c": "f: late"}})
    asked = context()
    assert await verdict(found, asked) is None
    assert asked.record.notes[NOTE] == "c: allowed, as last time, since the check has failed (f: late)"


RATE = "RateLimit shop/web"
SIX_A_MINUTE = {"requests": 6, "period": 60, "burst": 2, "sidecars": 1}


def a_rate(service: Service, *, dry_run: bool = False) -> PolicyFilter:
    by = attributes_of(("source.principal",))
    return checking(service, CheckSettings(RATE, Mode.LAST_DECISION, Mode.CLOSED, by, dry_run=dry_run))


def refuses(service: Service, wait: float) -> None:
    """As the policy service does whose rate has a token again in so many seconds."""
    memory = {"valid_for": "1s", "attributes": ["source.principal"]}
    level = {**SIX_A_MINUTE, "full_in": wait + 10}
    says(service, {"rule": RATE, "epoch": "1", "rules": {RATE: memory}, "rates": {RATE: level}}, code=8, status=429)


def fields(said: Verdict) -> dict[str, str]:
    assert isinstance(said, LocalReply)
    return {name.decode(): value.decode() for name, value in said.headers}


async def test_who_was_refused_by_a_rate_is_let_in_when_it_has_a_token_though_nobody_can_be_asked() -> None:
    """And then one in ten seconds; whoever is refused is told how long it is by now."""
    service = Service()
    found = a_rate(service)
    refuses(service, 7.4)
    await verdict(found, context())
    service.away = "gone"
    waits = []
    for now in (102.0, 107.0, 107.5, 108.0, 117.3):
        service.now = now
        said = await verdict(found, context())
        waits.append(fields(said)["retry-after"] if said is not None else "let in")
    assert waits == ["6", "1", "let in", "10", "1"]
    assert said == LocalReply(
        429,
        Flag.RATE_LIMITED,
        f"policy_denied{{{RATE}}}",
        b"RateLimit shop/web: 6 a minute, 2 at once for each source.principal; try again in 1 s\n",
        (
            (b"retry-after", b"1"),
            (b"ratelimit-policy", b'"shop/web";q=6;w=60'),
            (b"ratelimit", b'"shop/web";r=0;t=1'),
        ),
        grpc_status=8,
    )
    service.now = 500.0
    asked = [context() for _ in range(3)]
    assert [await verdict(found, each) is None for each in asked] == [True, True, False], "the burst, and no more"
    assert [each.record.notes[NOTE] for each in asked[1:]] == [
        f"{RATE}: {what}, as the rate goes on here, since the policy service is away (gone)"
        for what in ("allowed", "denied")
    ]


async def test_who_was_let_in_by_a_rate_has_what_was_left_of_it() -> None:
    service = Service()
    found = a_rate(service)
    says(service, {"rule": RATE, "epoch": "1", "rates": {RATE: {**SIX_A_MINUTE, "full_in": 10}}})
    assert await verdict(found, context()) is None
    service.away = "gone"
    assert [await verdict(found, context()) is None for _ in range(2)] == [True, False]


async def test_a_refusal_that_is_remembered_says_how_long_it_is_by_now() -> None:
    service = Service()
    found = a_rate(service)
    refuses(service, 7.4)
    await verdict(found, context())
    service.now += 0.9
    assert fields(await verdict(found, context()))["ratelimit"] == '"shop/web";r=0;t=7'
    assert len(service.within) == 1


async def test_a_rate_on_a_dry_run_goes_on_and_keeps_nobody_out() -> None:
    service = Service()
    found = a_rate(service, dry_run=True)
    level = {**SIX_A_MINUTE, "full_in": 17}
    says(service, {"rule": RATE, "epoch": "1", "would_refuse": [RATE], "rates": {RATE: level}})
    await verdict(found, context())
    service.away = "gone"
    asked = context()
    assert await verdict(found, asked) is None
    assert f"{RATE}: would be denied, as the rate goes on here" in asked.record.notes[NOTE]


@pytest.mark.parametrize(
    "wrong",
    [{"requests": 0}, {"period": 61}, {"burst": 2**31}, {"sidecars": 0}, {"full_in": -1}, {"full_in": float("nan")}],
)
async def test_a_rate_that_is_none_is_no_answer(wrong: dict[str, float]) -> None:
    service = Service()
    says(service, {"rule": RATE, "epoch": "1", "rates": {RATE: {**SIX_A_MINUTE, "full_in": 10, **wrong}}})
    said = await verdict(a_rate(service), context())
    assert isinstance(said, LocalReply)
    assert said.status == 503
    assert "are no rate" in service.away
