"""The policy filter's order and budget, with a service whose clock the test holds."""

from collections.abc import Awaitable

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from pymesh.policy_api import Grant
from pymesh_proxy.filters.base import LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.policy import NOTE, CheckSettings, PolicyFilter, PolicySettings
from pymesh_proxy.filters.remembered import Remembered
from pymesh_proxy.filters.slots import Mode, Refusal, SlotRule, SlotSettings
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
        self._delay = delay

    def policy(self, cluster: str, timeout: float) -> "Service":
        return self

    def authorization(self, cluster: str) -> None:
        raise AssertionError(cluster)

    def slots(self, settings: SlotSettings) -> SlotRule:
        return SlotRule(settings, PolicyStats(), lambda _: None)

    def stats(self, rule: str) -> PolicyStats:
        return PolicyStats()

    def clock(self) -> float:
        return self.now

    async def wait(self, rule: SlotRule, record: RequestRecord, within: float) -> Refusal | None:
        self.within.append(within)
        self.now += self._delay
        rule.answer(Grant(rule.name, 1, 9), in_time=True)
        assert rule.take(record)
        return None

    async def check(self, request: bytes, within: float) -> bytes:
        self.within.append(within)
        return self.answer.SerializeToString()

    def lost(self, why: str) -> None:
        self.away = why


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
    service = Service(delay=0.1)
    said = await verdict(new(service), context())
    assert isinstance(said, LocalReply)
    assert said.status == 503
    assert len(service.within) == 2
    assert not service.away  # it has answered each time


async def test_header_changes_are_refused() -> None:
    service = Service()
    service.answer.ok_response.headers_to_remove.append("authorization")
    said = await verdict(new(service), context(b"authorization: x\r\n"))
    assert isinstance(said, LocalReply)
    assert said.status == 503
    assert service.away == "header changes are not supported here"
