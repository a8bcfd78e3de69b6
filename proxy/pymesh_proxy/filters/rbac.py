"""Role-based access control for requests, decided in the proxy itself. Pure.

`rules` are enforced. Shadow rules are not: what they would have decided is counted, noted in the request's record, and
left in the dynamic metadata for the filters behind this one, as in Envoy. A caller that has proved to be a workload of
the mesh is told which policy and rule has denied its request; to anybody else only our access log tells.

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
# Envoy's key of the dynamic metadata by which rules of action LOG ask for the request to be logged.
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
    """The filter's configuration.

    Attributes:
        rules: None denies nothing.
        prefix, shadow_prefix: of the counters; the latter also of what shadow rules leave in the metadata.
    """

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
            matching = self._shadow_rules.matching(context)
            prefix, stats = self.settings.shadow_prefix, self._shadow_stats
            try_out(self._shadow_rules, matching, context.record, name=NAME, prefix=prefix, stats=stats)
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


def try_out(rules: Rules, matching: str, record: RequestRecord, *, name: str, prefix: str, stats: RbacStats) -> None:
    """Count, note and leave in the metadata of filter `name` what shadow rules would have decided, in Envoy's words."""
    let_in = rules.lets_in(matching)
    if let_in:
        stats.shadow_allowed += 1
    else:
        stats.shadow_denied += 1
        _note(record, f"would have been denied, matched policy {matching or _NONE}")
    found = {f"{prefix}{RBAC_SHADOW_RESULT}": "allowed" if let_in else "denied"}
    if matching:
        found[f"{prefix}{RBAC_SHADOW_POLICY}"] = matching
    record.metadata[name] = {**record.metadata.get(name, {}), **found}


def denied_by(matching: str) -> str:
    """Envoy's response code details of a denial by the policy `matching`; empty: no policy has allowed it."""
    return f"rbac_access_denied_matched_policy[{'_'.join(matching.split()) or _NONE}]"


def _told(details: str, record: RequestRecord) -> bytes:
    """Proxy-Status (RFC 9209) of a denial: only workloads of the mesh are told the policy."""
    facts = record.facts
    if facts.direction != "inbound" or not facts.peer:
        return _DENIED
    return b'%b; details="%b"' % (_DENIED, quotable(details).encode())


def _audit(matching: str, record: RequestRecord) -> None:
    """Leave in the metadata whether the request is one to be logged, as Envoy does."""
    record.metadata[COMMON] = {**record.metadata.get(COMMON, {}), LOG_HINT: bool(matching)}
    if matching:
        _note(record, f"audited, matched policy {matching}")


def _note(record: RequestRecord, text: str) -> None:
    """Add `text` to the record: several filters may have something to say."""
    before = record.notes.get(NOTE)
    record.notes[NOTE] = text if before is None else f"{before}; {text}"
