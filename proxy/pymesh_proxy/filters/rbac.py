"""Role-based access control for requests, decided in the proxy itself. Pure.

What `rules` decide is done. Shadow rules decide nothing: what they would have decided is counted and noted, and told to
the filters behind this one, as Envoy tells it. Who is kept out learns by which policy and rule if it is a workload of
the mesh that has proved to be one; anybody else learns that it is, and our access log tells the rest.

Source: envoy.extensions.filters.http.rbac.v3.RBAC; RFC 9209 2.3.25 (http_request_denied)
"""

from dataclasses import dataclass
from typing import Final

from pymesh.xds.filter_names import HTTP_RBAC, RBAC_SHADOW_POLICY, RBAC_SHADOW_RESULT
from pymesh_proxy.codec.headers import quotable
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.access_rules import Action, Rules
from pymesh_proxy.filters.base import LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.services import Services
from pymesh_proxy.telemetry.rbac_metrics import RbacStats
from pymesh_proxy.telemetry.record import RequestRecord

NAME: Final = HTTP_RBAC
# Key of RequestRecord.notes.
NOTE: Final = "rbac"
# Of an Envoy's dynamic metadata: whether the policies of a LOG action ask for the request to be logged.
COMMON: Final = "envoy.common"
LOG_HINT: Final = "access_log_hint"
_FORBIDDEN: Final = 403
# Envoy's words, which people search for.
_BODY: Final = b"RBAC: access denied"
# What Envoy calls the policy that matched where none did.
_NONE: Final = "none"
_DENIED: Final = b"pymesh; error=http_request_denied"

_LOG: Final = Action.LOG  # (an attribute of an enumeration costs 40 ns)


@dataclass(frozen=True, slots=True)
class RbacSettings:
    """The filter's configuration. Without `rules`, nothing is kept out; `prefix`, `shadow_prefix` name the counters."""

    rules: Rules | None
    shadow_rules: Rules | None
    prefix: str = ""
    shadow_prefix: str = ""


class RbacFilter:
    """The filter of one connection manager."""

    def __init__(self, settings: RbacSettings) -> None:
        self.settings = settings
        self._rules = settings.rules
        self._shadow_rules = settings.shadow_rules
        self._stats = RbacStats()
        self._shadow_stats = RbacStats()

    def connect(self, services: Services) -> None:
        """See filters.base: the filter is in force."""
        self._stats = services.rbac_stats(self.settings.prefix)
        self._shadow_stats = services.rbac_stats(self.settings.shadow_prefix)

    def on_request(self, context: RequestContext) -> Verdict:
        """See filters.base. Shadow rules come first, as in Envoy."""
        if self._shadow_rules is not None:
            self._shadow(self._shadow_rules, context)
        rules = self._rules
        if rules is None:
            return None
        matching = rules.matching(context)
        if rules.action is _LOG:
            _audit(matching, context.record)
        if rules.lets_in(matching):
            self._stats.allowed += 1
            return None
        self._stats.denied += 1
        details = denied_by(matching)
        return LocalReply(_FORBIDDEN, Flag.NONE, details, _BODY, ((b"proxy-status", _told(details, context.record)),))

    def _shadow(self, rules: Rules, context: RequestContext) -> None:
        matching = rules.matching(context)
        let_in = rules.lets_in(matching)
        tell_shadow(context.record, NAME, self.settings.shadow_prefix, matching, let_in=let_in)
        if let_in:
            self._shadow_stats.shadow_allowed += 1
        else:
            self._shadow_stats.shadow_denied += 1


def tell_shadow(record: RequestRecord, name: str, prefix: str, matching: str, *, let_in: bool) -> None:
    """Note what shadow rules would have decided, in the words of Envoy's filter `name`."""
    if not let_in:
        _note(record, f"would have been denied, matched policy {matching or _NONE}")
    found = {f"{prefix}{RBAC_SHADOW_RESULT}": "allowed" if let_in else "denied"}
    if matching:
        found[f"{prefix}{RBAC_SHADOW_POLICY}"] = matching
    record.metadata[name] = {**record.metadata.get(name, {}), **found}


def denied_by(matching: str) -> str:
    """Envoy's details of a denial by the policy `matching`, which is empty where none allowed it."""
    return f"rbac_access_denied_matched_policy[{'_'.join(matching.split()) or _NONE}]"


def _told(details: str, record: RequestRecord) -> bytes:
    """Proxy-Status for who is kept out: the policy is named to workloads of the mesh only."""
    facts = record.facts
    if facts.direction != "inbound" or not facts.peer:
        return _DENIED
    return b'%b; details="%b"' % (_DENIED, quotable(details).encode())


def _audit(matching: str, record: RequestRecord) -> None:
    """Say whether the request is one to be logged, as Envoy does."""
    record.metadata[COMMON] = {**record.metadata.get(COMMON, {}), LOG_HINT: bool(matching)}
    if matching:
        _note(record, f"audited, matched policy {matching}")


def _note(record: RequestRecord, text: str) -> None:
    """Several filters may have something to say."""
    before = record.notes.get(NOTE)
    record.notes[NOTE] = text if before is None else f"{before}; {text}"
