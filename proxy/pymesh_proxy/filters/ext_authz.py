"""External authorization: every request is asked about, at any service of envoy.service.auth.v3.Authorization.

Source: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_authz_filter
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from pymesh.grpc.status import RpcError
from pymesh.xds.filter_names import HTTP_EXT_AUTHZ
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.authz import Answer, AnswerError, HeaderFilter, question, read_answer
from pymesh_proxy.filters.base import Later, LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.services import Authorization, Services
from pymesh_proxy.telemetry.record import RequestRecord

# Key of RequestRecord.notes.
NOTE: Final = "ext_authz"
_FAILURE_ALLOWED: Final = b"x-envoy-auth-failure-mode-allowed"


@dataclass(frozen=True, slots=True)
class ExtAuthzSettings:
    """The filter's configuration, fields as in envoy.extensions.filters.http.ext_authz.v3.ExtAuthz.

    Attributes:
        timeout: seconds for an answer.
        shown: which request headers the service sees; None for all.
        authority: whom it is asked as; the cluster if that is empty.
        enabled: of which requests it is asked, by the dynamic metadata of filters before this one; None for all.
        namespaces: of which filters it sees the dynamic metadata.
    """

    cluster: str
    timeout: float
    failure_mode_allow: bool
    failure_mode_allow_header_add: bool
    status_on_error: int
    shown: HeaderFilter | None
    authority: str = ""
    enabled: Callable[[Mapping[str, Mapping[str, object]]], bool] | None = None
    namespaces: tuple[str, ...] = ()


class ExtAuthzFilter:
    """The filter of one connection manager. It serves once it is in force: after the first `connect`."""

    def __init__(self, settings: ExtAuthzSettings) -> None:
        self.settings = settings
        self._service: Authorization | None = None
        # Answers that have something to say about the response, until there is one or the request is over.
        self._for_response: dict[RequestRecord, Answer] = {}

    def connect(self, services: Services) -> None:
        """See filters.base: the filter is in force."""
        self._service = services.authorization(self.settings.cluster, self.settings.authority)

    def on_request(self, context: RequestContext) -> Verdict | Awaitable[Verdict]:
        """See filters.base. A request without a route is not asked about, as in Envoy."""
        if self._service is None:
            raise RuntimeError("an ext_authz filter was asked before it was in force")
        if context.route is None:  # this pins the route, too, which header changes must not choose
            return None
        enabled = self.settings.enabled
        if enabled is not None and not enabled(context.record.metadata):
            return None
        return Later(partial(self._ask, context, self._service))

    def on_response(self, context: RequestContext, head: Head) -> None:
        """See filters.base."""
        if self._for_response and (answer := self._for_response.pop(context.record, None)) is not None:
            answer.change_response(head)

    def on_complete(self, record: RequestRecord) -> None:
        """See filters.base."""
        if self._for_response:
            self._for_response.pop(record, None)

    async def _ask(self, context: RequestContext, service: Authorization) -> Verdict:
        settings, stats, begun = self.settings, service.stats(), service.clock()
        answer, problem = None, ""
        try:
            data = await service.check(
                question(context, {}, settings.shown, settings.namespaces), self.settings.timeout
            )
            answer = read_answer(data, metadata=True)
        except RpcError as error:
            problem = error.status.message or str(error)
        except AnswerError as error:
            return self._invalid(context, str(error))
        finally:
            stats.asked += 1
            stats.seconds += service.clock() - begun
        if answer is None or answer.error:
            stats.without("open" if self.settings.failure_mode_allow else "closed")
            return self._failed(context, answer, problem or "the service could not decide")
        if not answer.allowed:
            stats.denied += 1
            context.record.notes[NOTE] = "denied"
            flag = Flag.UNAUTHORIZED_EXTERNAL_SERVICE
            return LocalReply(answer.status, flag, "ext_authz_denied", answer.body, answer.headers)
        stats.allowed += 1
        context.record.notes[NOTE] = "allowed"
        if answer.metadata:
            context.record.metadata[HTTP_EXT_AUTHZ] = answer.metadata
        answer.change(context.request)
        if answer.for_response:
            self._for_response[context.record] = answer
        return None

    def _failed(self, context: RequestContext, answer: Answer | None, why: str) -> Verdict:
        """There is no decision: what the configuration says then."""
        settings = self.settings
        if settings.failure_mode_allow:
            context.record.notes[NOTE] = f"allowed without an answer: {why}"
            if settings.failure_mode_allow_header_add:
                context.request.set(_FAILURE_ALLOWED, b"true")
            return None
        context.record.notes[NOTE] = f"refused without an answer: {why}"
        status, body = settings.status_on_error, b""
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if answer is not None:
            status, body, headers = answer.status or status, answer.body, answer.headers
        return LocalReply(status, Flag.UNAUTHORIZED_EXTERNAL_SERVICE, f"ext_authz_error: {why}", body, headers)

    def _invalid(self, context: RequestContext, why: str) -> LocalReply:
        """The answer must not be carried out: Envoy's answer with `validate_mutations`."""
        context.record.notes[NOTE] = f"refused: {why}"
        return LocalReply(500, Flag.UNAUTHORIZED_EXTERNAL_SERVICE, f"ext_authz_invalid: {why}")
