"""External authorization where Envoy is no measure: answers that are not carried out, and what is left behind.

The rest is compared with Envoy, in tests/conformance/test_ext_authz.py.
"""

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict

from pymesh.grpc.status import Code, RpcError, Status
from pymesh_proxy.codec.http1 import parse_response
from pymesh_proxy.filters.base import LocalReply, Verdict
from pymesh_proxy.filters.ext_authz import NOTE, ExtAuthzFilter, ExtAuthzSettings
from pymesh_proxy.routing import DirectResponse, Route
from pymesh_proxy.telemetry.policy_metrics import PolicyStats
from tests.proxy.filters.context import Context
from tests.proxy.filters.test_remembered import context

ROUTE = Route("r", "h", "", lambda _: True, DirectResponse(200, b""))


class Service:
    """See filters.services.Authorization: the answer of the test, or its error."""

    def __init__(self) -> None:
        self.answer = CheckResponse()
        self.error: RpcError | None = None
        self.counters = PolicyStats()
        self.asked = 0
        self.authority = ""
        self.request = b""

    def authorization(self, cluster: str, authority: str = "") -> "Service":
        self.authority = authority
        return self

    def policy(self, cluster: str, timeout: float) -> None:
        raise AssertionError(cluster)

    def stats(self) -> PolicyStats:
        return self.counters

    def clock(self) -> float:
        return float(self.asked)

    async def check(self, request: bytes, within: float) -> bytes:
        self.asked += 1
        self.request = request
        if self.error is not None:
            raise self.error
        return self.answer.SerializeToString()


@pytest.fixture
def service() -> Service:
    return Service()


async def verdict(service: Service, asked: Context, **settings: object) -> tuple[ExtAuthzFilter, Verdict]:
    every = {"failure_mode_allow": False, "failure_mode_allow_header_add": False, "status_on_error": 403, "shown": None}
    found = ExtAuthzFilter(ExtAuthzSettings("a", 0.2, **{**every, **settings}))  # type: ignore[arg-type]  # as named
    found.connect(service)  # type: ignore[arg-type]  # no policy service
    asked.route = ROUTE
    said = found.on_request(asked)
    assert said is not None
    assert not isinstance(said, LocalReply)
    return found, await said


async def test_an_answer_that_cannot_be_carried_out_is_500_and_says_why(service: Service) -> None:
    service.answer.ok_response.headers_to_remove.append("Content-Length")
    asked = context()
    _, said = await verdict(service, asked, failure_mode_allow=True)
    assert isinstance(said, LocalReply)
    assert (said.status, said.flag.value) == (500, "UAEX")
    assert said.details == "ext_authz_invalid: the header 'Content-Length' must not be changed"
    assert asked.record.notes[NOTE] == "refused: the header 'Content-Length' must not be changed"


async def test_only_requests_are_asked_about_of_which_a_filter_before_has_noted_so(service: Service) -> None:
    """As RBAC does for CUSTOM: `filter_enabled_metadata`. The service sees what it is to see of that."""
    every = {"failure_mode_allow": False, "failure_mode_allow_header_add": False, "status_on_error": 403, "shown": None}
    settings = ExtAuthzSettings("a", 0.2, **every, enabled=lambda told: "rbac" in told, authority="b")  # type: ignore[arg-type]  # as named
    found = ExtAuthzFilter(settings)
    found.connect(service)  # type: ignore[arg-type]  # no policy service
    asked = context()
    asked.route = ROUTE
    assert found.on_request(asked) is None
    asked.record.metadata["rbac"] = {"policy": "x"}
    assert found.on_request(asked) is not None
    assert service.authority == "b"


async def test_what_the_service_tells_other_filters_and_is_told_by_them(service: Service) -> None:
    asked = context()
    asked.record.metadata["jwt"] = {"payload": {"sub": "u"}}
    service.answer.dynamic_metadata.update({"tenant": "t"})
    await verdict(service, asked, namespaces=("jwt", "none"))
    told = CheckRequest.FromString(service.request).attributes.metadata_context.filter_metadata
    assert {name: MessageToDict(value) for name, value in told.items()} == {"jwt": {"payload": {"sub": "u"}}}
    assert asked.record.metadata["envoy.filters.http.ext_authz"] == {"tenant": "t"}


async def test_what_is_counted(service: Service) -> None:
    await verdict(service, context())
    service.answer.status.code = 7
    await verdict(service, context())
    service.error = RpcError(Status(Code.UNAVAILABLE, "gone"))
    await verdict(service, context())
    _, said = await verdict(service, context(), failure_mode_allow=True)
    assert said is None
    stats = service.counters
    assert (stats.asked, stats.allowed, stats.denied, stats.seconds) == (4, 1, 1, 4.0)
    assert stats.unavailable == {"closed": 1, "open": 1}


async def test_a_service_that_is_away_is_named_in_the_details(service: Service) -> None:
    service.error = RpcError(Status(Code.UNAVAILABLE, "cluster a: it has no endpoint"))
    _, said = await verdict(service, context(), status_on_error=503)
    assert isinstance(said, LocalReply)
    assert (said.status, said.details) == (503, "ext_authz_error: cluster a: it has no endpoint")


async def test_headers_for_a_response_that_never_comes_are_forgotten(service: Service) -> None:
    added = service.answer.ok_response.response_headers_to_add.add()
    added.header.key, added.header.value = "x-answer", "1"
    response = parse_response(b"HTTP/1.1 200 OK\r\n\r\n", 60_000, 100)
    assert response is not None
    asked = context()
    found, _ = await verdict(service, asked)
    found.on_complete(asked.record)
    found.on_response(asked, response[0])
    assert not response[0].has(b"x-answer")


def test_a_filter_that_is_not_in_force_lets_nothing_pass() -> None:
    found = ExtAuthzFilter(ExtAuthzSettings("a", 0.2, True, False, 403, None))
    with pytest.raises(RuntimeError, match="before it was in force"):
        found.on_request(context())


async def test_a_request_without_a_route_is_not_asked_about(service: Service) -> None:
    found = ExtAuthzFilter(ExtAuthzSettings("a", 0.2, False, False, 403, None))
    found.connect(service)  # type: ignore[arg-type]  # no policy service
    assert found.on_request(context()) is None
    assert service.asked == 0
