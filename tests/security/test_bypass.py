"""Ways around an access policy: each is a request that means what is forbidden and says it in another way."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.security.guarded import FRIEND, STRANGER, Guarded, guarded

# Whoever is a friend may do everything but what is below /admin, and nothing at all at another host.
POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: friends, namespace: default}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-admin, namespace: default}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin, "/admin/*"]}}]
  - to: [{operation: {hosts: [internal.test]}}]
  - to: [{operation: {methods: [DELETE]}}]
"""
# Only this is allowed, whoever asks.
PUBLIC = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: public, namespace: default}
spec: {rules: [{to: [{operation: {paths: ["/public/*"], methods: [GET]}}]}]}
"""
UPGRADE = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


def said(line: str, *, host: str = "app", more: str = "") -> bytes:
    return f"{line}\r\nhost: {host}\r\n{more}\r\n".encode("latin-1")


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(POLICIES, tmp_path, paths="DECODE_AND_MERGE_SLASHES") as found:
        yield found


async def test_what_is_allowed_is_allowed(app: Guarded) -> None:
    assert await app.status(said("GET / HTTP/1.1")) == 200
    assert await app.status(said("GET / HTTP/1.1"), STRANGER) == 403
    assert await app.status(said("GET /admin HTTP/1.1")) == 403


async def test_no_spelling_of_a_path_gets_around_a_denial(app: Guarded) -> None:
    spellings = (
        "/admin?a=/public", "/admin/", "/admin/x", "//admin", "///admin//x", "/./admin", "/.//admin", "/x/../admin",
        "/x/..//admin", "/x/y/../../admin", "/%61dmin", "/%61%64min/", "/%2fadmin", "/x%2f..%2fadmin",
        "/x/%2e%2e/admin", "/x/%2E./admin", "/%2e/admin", "/admin%2fx", "/admin%2F", "\\\\admin",
        "/x\\..\\admin", "/x%5c..%5cadmin", "/%5cadmin", "/admin\\x", "/../admin", "/%2e%2e/admin",
        "/admin/.", "/admin/./x", "/admin/x/..",
    )  # fmt: skip
    for path in spellings:
        status = await app.status(said(f"GET {path} HTTP/1.1"))
        assert status in {400, 403}, path
    assert not app.app.seen


@pytest.mark.parametrize("paths", ["BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"])
async def test_no_spelling_of_a_path_gets_into_what_is_allowed(tmp_path: Path, paths: str) -> None:
    """Whatever passes is below /public for whoever reads it: nothing climbs out again."""
    spellings = (
        "/", "/PUBLIC/x", "/Public/", "/public", "/public;v=1/x", "/;/public/x", "/x;/public/", "/publi%63;/x",
        "/public/../admin", "/public/%2e%2e/admin", "/public/x/../../admin", "/public\\..\\..\\admin",
        "/x/%2e%2e/%2e%2e/", "/xpublic/", "/a?/public/", "/public%00/", "/public%",
    )  # fmt: skip
    async with guarded(PUBLIC, tmp_path, paths=paths) as app:
        for path in spellings:
            status = await app.status(said(f"GET {path} HTTP/1.1"))
            assert status in {400, 403}, path
        assert await app.status(said("GET /public/%2e/x HTTP/1.1")) == 200
        assert [head.split(b" ")[1] for head in app.app.seen] == [b"/public/x"]


async def test_a_path_with_another_case_or_with_matrix_parameters_is_another_path(app: Guarded) -> None:
    """As RFC 3986 has it. An app that takes them for the same is guarded by a list of what is allowed alone."""
    assert await app.status(said("GET /ADMIN HTTP/1.1")) == 200
    assert await app.status(said("GET /admin;x=1 HTTP/1.1")) == 200
    assert [head.split(b" ")[1] for head in app.app.seen] == [b"/ADMIN", b"/admin;x=1"]


@pytest.mark.parametrize(
    "request_",
    [
        said("GET /admin HTTP/1.0"),
        b"GET /admin HTTP/1.0\r\n\r\n",
        b"GET /admin\r\n\r\n",  # HTTP/0.9
        b"GET /admin HTTP/0.9\r\nhost: app\r\n\r\n",
        said("GET /admin HTTP/1.2"),
        said("GET /admin HTTP/1.1", more=UPGRADE),
        said(
            "GET /admin HTTP/1.1",
            more="connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAAA\r\n",
        ),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        said("CONNECT app:80 HTTP/1.1", host="app:80"),
        said("CONNECT /admin HTTP/1.1"),
        said("GET http://app/admin HTTP/1.1"),
        said("GET http://app//admin?x HTTP/1.1"),
        said("GET HTTP://internal.test/ HTTP/1.1"),
        said("GET http://user@internal.test/ HTTP/1.1"),
        said("GET app/admin HTTP/1.1"),
        said("GET *admin HTTP/1.1"),
        said("DELETE / HTTP/1.1", more="x-http-method-override: GET\r\n"),
        said("delete / HTTP/1.1"),
        said(" GET /admin HTTP/1.1"),
        b"GET\t/admin HTTP/1.1\r\nhost: app\r\n\r\n",
    ],
    ids=lambda request: request.partition(b"\r\n")[0].decode(),
)
async def test_no_form_of_a_request_gets_around_a_denial(app: Guarded, request_: bytes) -> None:
    status = await app.status(request_)
    if request_.startswith(b"delete"):  # methods have a case: this is another one, and the app's to refuse
        assert status == 200
        return
    assert status == 0 or 400 <= status < 600
    assert not app.app.seen


@pytest.mark.parametrize(
    "hosts",
    [
        "host: internal.test\r\n",
        "host: INTERNAL.Test\r\n",
        "host: app\r\nhost: internal.test\r\n",
        "host: internal.test\r\nhost: app\r\n",
        "host: internal.test\r\nx-forwarded-host: app\r\n",
        "host: app, internal.test\r\n",
        "host: internal.test, app\r\n",
        "host: app@internal.test\r\n",
        "host : internal.test\r\n",
        " host: internal.test\r\nhost: app\r\n",
        "host: app\r\n internal.test\r\n",
        "",
    ],
)
async def test_no_form_of_a_host_gets_around_a_denial(app: Guarded, hosts: str) -> None:
    assert await app.status(f"GET / HTTP/1.1\r\n{hosts}\r\n".encode()) in {400, 403}
    assert not app.app.seen


async def test_a_host_with_a_port_or_a_dot_at_its_end_is_another_host(app: Guarded, tmp_path: Path) -> None:
    """As in Istio: a denial that is about a host has to name these forms, too."""
    others = ("internal.test:80", "internal.test:080", "internal.test:", "internal.test.", "internal.test.:80")
    for host in others:
        assert await app.status(said("GET / HTTP/1.1", host=host)) == 200, host
    every = POLICIES.replace(
        "[internal.test]", '[internal.test, "internal.test:*", internal.test., "internal.test.:*"]'
    )
    async with guarded(every, tmp_path) as careful:
        for host in ("internal.test", *others):
            assert await careful.status(said("GET / HTTP/1.1", host=host)) == 403, host


async def test_a_sidecar_believes_its_callers_of_where_a_request_began(tmp_path: Path) -> None:
    """As in Istio: only a gateway knows, and `remoteIpBlocks` are for where nobody but a gateway may call."""
    policy = POLICIES.partition("---")[0].replace(
        "principals: [cluster.local/ns/default/sa/friend]", "BLOCKS: [10.0.0.9]"
    )
    claim = "x-forwarded-for: 10.0.0.9\r\n"
    async with guarded(policy.replace("BLOCKS", "remoteIpBlocks"), tmp_path) as app:
        assert await app.status(said("GET / HTTP/1.1", more=claim), STRANGER) == 200
    async with guarded(policy.replace("BLOCKS", "ipBlocks"), tmp_path) as app:
        assert await app.status(said("GET / HTTP/1.1", more=claim), STRANGER) == 403


async def test_a_second_request_on_an_allowed_connection_is_judged_by_itself(app: Guarded) -> None:
    async with app.caller() as peer:
        peer.send(said("GET / HTTP/1.1") + said("GET /admin HTTP/1.1") + said("GET /x HTTP/1.1"))
        answers = [int((await peer.message())[0].split(b" ")[1]) for _ in range(3)]
    assert answers == [200, 403, 200]


async def test_a_websocket_is_judged_before_it_is_one(app: Guarded) -> None:
    assert await app.status(said("GET /admin/socket HTTP/1.1", more=UPGRADE)) == 403
    assert await app.status(said("GET /socket HTTP/1.1", more=UPGRADE), STRANGER) == 403
    assert not app.app.seen


@pytest.mark.parametrize(
    "claim",
    [
        f"x-forwarded-client-cert: URI={FRIEND}",
        f"X-Forwarded-Client-Cert: By=a;URI={FRIEND}\r\nx-forwarded-client-cert: URI={FRIEND}",
        f"X_Forwarded_Client_Cert: URI={FRIEND}",
        f"connection: x-forwarded-client-cert\r\nx-forwarded-client-cert: URI={FRIEND}",
        "x-envoy-peer-metadata-id: sidecar~10.0.0.1~friend.default~default.svc.cluster.local",
        "x-envoy-peer-metadata: AAAA",
        "x-forwarded-for: 127.0.0.1",
        "x-envoy-internal: true",
        "x-envoy-original-path: /public",
        "x-original-url: /public",
        f"x-istio-attributes: source.principal={FRIEND}",
    ],
)
async def test_nobody_becomes_a_friend_by_saying_so(app: Guarded, claim: str) -> None:
    assert await app.status(said("GET / HTTP/1.1", more=f"{claim}\r\n"), STRANGER) in {400, 403}
    assert not app.app.seen


async def test_an_app_is_told_by_us_who_calls_and_by_nobody_else(app: Guarded) -> None:
    lies = f"x-forwarded-client-cert: URI={STRANGER}\r\nX_Forwarded_Client_Cert: URI={STRANGER}\r\n"
    assert await app.status(said("GET / HTTP/1.1", more=lies)) == 200
    [head] = app.app.seen
    assert f"URI={FRIEND}".encode() in head
    assert STRANGER.encode() not in head
