"""A real Envoy asks the policy service, in both of the APIs that it knows, over mutual TLS."""

import asyncio
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from tests.conformance.sides import Answer, Side, Situation, _proxy
from tests.controlplane.citadel.support import csr_for, key_pem, new_key
from tests.controlplane.pilot.worlds import BOOKINFO
from tests.controlplane.policy import harness
from tests.controlplane.policy.harness import AUTHORITY, PYTHON, REVIEWS, Serving, serving
from tests.support.echo import EchoServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.envoy

# Nobody comes back from before: nobody is waited for.
at_once = harness.at_once

LIMITS = """
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: checked, namespace: default}
spec: {targetRefs: [{name: reviews}], requests: 2, per: Hour, by: ["request.path[/checked/{user}]"]}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: limited, namespace: default}
spec: {targetRefs: [{name: reviews}], requests: 2, per: Hour, by: ["request.headers[x-user]"]}
"""
BOOTSTRAP = """
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: ${LISTEN}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              status_on_error: {code: ServiceUnavailable}
              grpc_service: {envoy_grpc: {cluster_name: policy}, timeout: 5s}
          - name: envoy.filters.http.ratelimit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: reviews.default.svc.cluster.local
              timeout: 5s
              failure_mode_deny: true
              rate_limit_service:
                transport_api_version: V3
                grpc_service: {envoy_grpc: {cluster_name: policy}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /checked/}
                route: {cluster: a}
                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    check_settings: {context_extensions: {pymesh.rules: "RateLimit default/checked"}}
              - match: {prefix: /python}
                route: {cluster: a}
                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    check_settings: {context_extensions: {pymesh.rules: "Check default/reviews"}}
              - match: {prefix: /limited}
                route:
                  cluster: a
                  rate_limits:
                  - actions: [{request_headers: {header_name: x-user, descriptor_key: "request.headers[x-user]"}}]
  clusters:
  - name: a
    load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${A}}}}}]}]}
  - name: policy
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: policy, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: POLICY}}}}]}]}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          alpn_protocols: [h2]
          tls_certificates: [{certificate_chain: {filename: FOLDER/chain.pem}, private_key: {filename: FOLDER/key.pem}}]
          validation_context: {trusted_ca: {filename: FOLDER/root.pem}}
"""


def bootstrap(running: Serving, folder: Path) -> str:
    """For an Envoy that shows the certificate of reviews."""
    key = new_key()
    issued = AUTHORITY.issue_workload(csr_for(key), REVIEWS, now=datetime.now(UTC))
    (folder / "key.pem").write_bytes(key_pem(key))
    (folder / "chain.pem").write_text("".join(issued.chain))
    (folder / "root.pem").write_text(AUTHORITY.root_pem)
    return BOOTSTRAP.replace("POLICY", str(running.port)).replace("FOLDER", str(folder))


@pytest.fixture
def upstream() -> Iterator[EchoServer]:
    with EchoServer("a") as a:
        yield a


async def test_envoy_does_as_the_policy_service_says(upstream: EchoServer, tmp_path: Path) -> None:
    async with serving(BOOKINFO + LIMITS + PYTHON) as running:
        text = bootstrap(running, tmp_path)
        envoy = await asyncio.to_thread((proxy := _proxy("envoy", text, tmp_path, upstream, upstream)).__enter__)
        try:
            await asks(envoy, running)
        finally:
            await asyncio.to_thread(proxy.__exit__, None, None, None)


async def asks(envoy: Side, running: Serving) -> None:
    def about(path: str, *headers: tuple[str, str]) -> Awaitable[Answer]:
        situation = Situation(path, 200, path, "GET", "reviews", headers)
        return asyncio.to_thread(envoy.ask, situation)

    # Authorization/Check: a rate by a path template, for others and for callers that speak gRPC.
    answers = [await about(path) for path in ("/checked/a?x", "/checked/b", "/checked/a", "/checked/a")]
    assert [one.status for one in answers] == [200, 200, 200, 429]
    told = dict(answers[-1].headers)
    assert told["ratelimit-policy"] == '"default/checked";q=2;w=3600'
    assert told["ratelimit"].startswith('"default/checked";r=0;t=')
    assert int(told["retry-after"]) > 1700
    assert b"RateLimit default/checked: 2 an hour for each request.path[/checked/{user}]; try" in answers[-1].body
    spoken = await about("/checked/a", ("content-type", "application/grpc"))
    assert (spoken.status, dict(spoken.headers)["grpc-status"]) == (200, "8")
    # A check in Python that fails is 503 and says by whom, since nobody has shown a token.
    failed = await about("/python")
    assert (failed.status, failed.body) == (503, b"Check default/reviews: it could not decide\n")
    # RateLimitService/ShouldRateLimit.
    answers = [await about("/limited", ("x-user", user)) for user in "abaa"]
    assert [one.status for one in answers] == [200, 200, 200, 429]
    assert dict(answers[-1].headers)["ratelimit-policy"] == '"default/limited";q=2;w=3600'
    assert answers[-1].body.startswith(b"RateLimit default/limited: 2 an hour for each request.headers[x-user]; try")
    counted = running.service.counts.checks
    assert counted["RateLimit default/limited", "allowed"] == 3
    assert counted["RateLimit default/limited", "denied"] == 1


BY_HTTP = """http_service:
                server_uri: {uri: "http://policy", cluster: policy, timeout: 5s}
                path_prefix: /check
                authorization_request:
                  headers_to_add: [{key: x-pymesh-rules, value: "RateLimit default/checked,Check default/reviews"}]
              allowed_headers: {patterns: [{exact: x-forwarded-for}]}"""


async def test_envoy_asks_by_http_too(upstream: EchoServer, tmp_path: Path) -> None:
    """The same decisions, for callers who show the same certificate; failure_mode and status_on_error as ever."""
    python = PYTHON.replace('request.claims["tenant"] == "a"', 'request.path.startswith("/checked")')
    async with serving(BOOKINFO + LIMITS + python) as running:
        await eventually(lambda: running.service.questions.python.names)
        text = bootstrap(running, tmp_path)
        text = text.replace("grpc_service: {envoy_grpc: {cluster_name: policy}, timeout: 5s}", BY_HTTP)
        text = text.replace("alpn_protocols: [h2]", "alpn_protocols: [http/1.1]")
        text = text.replace("http2_protocol_options", "http_protocol_options")
        envoy = await asyncio.to_thread((proxy := _proxy("envoy", text, tmp_path, upstream, upstream)).__enter__)
        try:
            answers = [
                await asyncio.to_thread(envoy.ask, Situation(path, 200, path, "GET", "reviews"))
                for path in ("/checked/a?x=%2F", "/checked/b", "/checked/a", "/checked/a", "/python%2e")
            ]
            assert [one.status for one in answers] == [200, 200, 200, 429, 403]
            assert dict(answers[3].headers)["ratelimit-policy"] == '"default/checked";q=2;w=3600'
            assert answers[3].body.startswith(b"RateLimit default/checked: 2 an hour")
            assert answers[4].body == b"Check default/reviews: for tenant a\n"
            before = running.service.counts.refused["identity"]
            running.worlds.put(BOOKINFO + LIMITS.replace("name: reviews", "name: ratings"))
            epoch = running.service.status()["epoch"]
            await eventually(lambda: running.service.status()["epoch"] != epoch)
            away = await asyncio.to_thread(envoy.ask, Situation("/checked/a", 503, "/checked/a", "GET", "reviews"))
            assert away.status == 503, "others' rules are not ours to spend"
            assert running.service.counts.refused["identity"] == before + 1
        finally:
            await asyncio.to_thread(proxy.__exit__, None, None, None)


async def test_whose_workload_is_not_behind_the_target_may_not_spend_its_rates() -> None:
    """And what makes no sense is refused as such."""
    async with serving(BOOKINFO + LIMITS) as running:
        request = RateLimitRequest(domain="reviews.default.svc.cluster.local")
        request.descriptors.add().entries.add(key="request.headers[x-user]", value="a")
        for identity, data, code in (
            (harness.RATINGS, request.SerializeToString(), grpc.StatusCode.PERMISSION_DENIED),
            (REVIEWS, RateLimitRequest().SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT),
            (REVIEWS, b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
        ):
            async with running.channel(identity) as channel:
                call = channel.unary_unary("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
                found, _ = await harness.refused(call(data, timeout=5))
                assert found is code
