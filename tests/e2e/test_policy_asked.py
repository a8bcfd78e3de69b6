"""A rate that is counted apart, asked about at two replicas of the policy service with one Redis: real processes."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from pymesh import policy_api
from pymesh_controlplane.policy import ratelimit
from tests.controlplane.pilot.worlds import pod, service
from tests.support.proxy_process import free_port
from tests.support.redis_server import redis_server
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

CLOSED, OPEN = "RateLimit default/web", "RateLimit default/open"
BURST = 20
RULES = f"""
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {{name: web, namespace: default}}
spec: {{targetRefs: [{{name: web}}], requests: {BURST}, per: Day, by: ["request.headers[x-user]"], failureMode: Closed}}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {{name: open, namespace: default}}
spec: {{targetRefs: [{{name: web}}], requests: {BURST}, per: Day, by: ["request.headers[x-user]"], failureMode: Open}}
"""


@dataclass
class Site:
    replicas: list[grpc.Channel]
    redis: "subprocess.Popen[bytes]"

    def ask(self, replica: int, user: str, rule: str = CLOSED, *, tell: bool = True) -> CheckResponse:
        request = CheckRequest()
        request.attributes.context_extensions[policy_api.RULES_EXTENSION] = rule
        if tell:
            request.attributes.context_extensions[policy_api.UNDECIDED_EXTENSION] = policy_api.TELL
        request.attributes.request.http.headers["x-user"] = user
        call: Any = self.replicas[replica].unary_unary(policy_api.CHECK_PATH)
        return CheckResponse.FromString(call(request.SerializeToString(), timeout=5))

    def result(self, replica: int, user: str) -> str:
        """What a sidecar takes from the answer."""
        answer = self.ask(replica, user)
        if "undecided" in answer.dynamic_metadata.fields[policy_api.ANSWER_METADATA].struct_value.fields:
            return "undecided"
        return "allowed" if answer.HasField("ok_response") else "denied"

    def should_rate_limit(self, replica: int, user: str) -> RateLimitResponse:
        request = RateLimitRequest(domain="web.default.svc.cluster.local")
        entries = request.descriptors.add().entries
        entries.add(key="generic_key", value="web")
        entries.add(key="request.headers[x-user]", value=user)
        call: Any = self.replicas[replica].unary_unary(f"/{ratelimit.SERVICE}/{ratelimit.METHOD}")
        return RateLimitResponse.FromString(call(request.SerializeToString(), timeout=5))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("asked")
    (directory / "world.yaml").write_text("---\n".join([service("web"), pod("web-0", "10.244.1.0", "web")]) + RULES)
    with ExitStack() as stack:
        port, redis = stack.enter_context(redis_server(directory))
        channels = []
        for _ in range(2):
            mine = free_port()
            command = [sys.executable, "-m", "tests.support.policy_replica", str(directory / "world.yaml"), str(mine)]
            process = stack.enter_context(subprocess.Popen([*command, f"redis://127.0.0.1:{port}"]))
            stack.callback(process.kill)
            channels.append(stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{mine}")))
        for channel in channels:
            grpc.channel_ready_future(channel).result(timeout=30)
        made = Site(channels, redis)
        eventually_sync(lambda: made.result(0, "first") == made.result(1, "first") == "allowed", what="decisions")
        yield made


def test_both_replicas_together_let_in_what_the_rate_says(site: Site) -> None:
    """Forty questions, every other one at each, by Check and by ShouldRateLimit: twenty get in."""
    found: Counter[str] = Counter()
    for number in range(BURST):
        found[site.result(number % 2, "web")] += 1
        code = site.should_rate_limit((number + 1) % 2, "web").overall_code
        found["allowed" if code == RateLimitResponse.OK else "denied"] += 1
    # A question that the machine of the test was too slow for is undecided, and may have been counted.
    assert BURST - 2 * found["undecided"] <= found["allowed"] <= BURST, found
    assert [site.result(replica, "web") for replica in (0, 1)] == ["denied"] * 2
    refused = site.should_rate_limit(0, "web")
    assert (refused.overall_code, refused.statuses[0].limit_remaining) == (RateLimitResponse.OVER_LIMIT, 0)
    assert site.result(0, "another") == "allowed", "counted apart"


def test_while_the_store_stands_still_the_failure_mode_decides_and_then_it_counts_again(site: Site) -> None:
    """A sidecar is told that nobody could decide; who does not know what that is, is answered by the mode."""
    site.redis.send_signal(signal.SIGSTOP)
    try:
        eventually_sync(lambda: site.result(0, "late") == "undecided", what="no decision")
        assert site.ask(0, "late", CLOSED, tell=False).denied_response.status.code == 503
        assert site.ask(0, "late", OPEN, tell=False).HasField("ok_response")
        told = site.should_rate_limit(0, "late")
        assert told.overall_code == RateLimitResponse.OVER_LIMIT
        assert b"the store of counts is away" in told.raw_body
    finally:
        site.redis.send_signal(signal.SIGCONT)
    eventually_sync(lambda: site.result(0, "back") == site.result(1, "back") == "allowed", what="decisions")
