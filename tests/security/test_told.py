"""What is told of a denial: to a workload by which policy and rule, to anybody else that it is one."""

from pathlib import Path

from tests.security.guarded import STRANGER, guarded
from tests.support.inprocess import bootstrap, cluster, http_listener, route, running
from tests.support.peers import RawUpstream, client

POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-strangers, namespace: default}
spec: {action: DENY, rules: [{from: [{source: {principals: ["*/sa/stranger"]}}]}]}
"""
DETAILS = "rbac_access_denied_matched_policy[ns[default]-policy[no-strangers]-rule[0]]"
GET = b"GET / HTTP/1.1\r\nhost: app\r\n\r\n"


async def test_a_workload_is_told_by_which_rule_and_so_is_the_log(tmp_path: Path) -> None:
    async with guarded(POLICIES, tmp_path) as app:
        async with app.caller(STRANGER) as peer:
            peer.send(GET)
            head, body = await peer.message()
        assert f'proxy-status: pymesh; error=http_request_denied; details="{DETAILS}"\r\n'.encode() in head
        assert body == b"RBAC: access denied"
        assert (await app.proxy.record()).details == DETAILS


async def test_what_leaves_the_mesh_says_no_more_than_that_it_is_denied() -> None:
    """A gateway is told, as a workload, and does not pass it on."""
    answer = (
        f'HTTP/1.1 403 Forbidden\r\nproxy-status: pymesh; error=http_request_denied; details="{DETAILS}"\r\n'
        "content-length: 0\r\n\r\n"
    )
    async with RawUpstream() as upstream:
        edge = http_listener([route("service")], use_remote_address=True)
        async with (
            running(bootstrap([edge], [cluster("service", upstream.address)])) as proxy,
            client(proxy.address) as peer,
        ):
            peer.send(GET)
            served = await upstream.accept()
            await served.head()
            served.send(answer.encode())
            head = await peer.head()
    assert b"proxy-status: pymesh; error=http_request_denied\r\n" in head
    assert b"no-strangers" not in head
