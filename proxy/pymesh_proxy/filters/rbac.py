"""Role-based access control, decided in the proxy itself: who may do what, by rules of Envoy's form. Pure.

A policy matches a request if one of its permissions (what is done) and one of its principals (who does it) do. What
follows is up to the action: ALLOW lets in what some policy matches, DENY keeps it out, LOG keeps nothing out. Shadow
rules decide nothing; what they would have decided is counted and noted.

Source: envoy.extensions.filters.http.rbac.v3.RBAC, envoy.config.rbac.v3.RBAC
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.base import LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.services import Services
from pymesh_proxy.telemetry.rbac_metrics import RbacStats

# Key of RequestRecord.notes.
NOTE: Final = "rbac"
_FORBIDDEN: Final = 403
# Envoy's words, which people search for.
_BODY: Final = b"RBAC: access denied"
# What Envoy calls the policy that matched where none did.
_NONE: Final = "none"

Match = Callable[[RequestContext], bool]


class Action(Enum):
    """What it means that a policy matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    LOG = "LOG"


_ALLOW: Final = Action.ALLOW  # (an attribute of an enumeration costs 40 ns)
_LOG: Final = Action.LOG


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy: its name, and whether it matches."""

    name: str
    matches: Match


@dataclass(frozen=True, slots=True)
class Rules:
    """Policies, in the order of their names, and what follows where one of them matches."""

    action: Action
    policies: tuple[Policy, ...]

    def matching(self, context: RequestContext) -> str:
        """The name of the first policy that matches; empty if none does."""
        for policy in self.policies:
            if policy.matches(context):
                return policy.name
        return ""

    def lets_in(self, matching: str) -> bool:
        """Whether a request goes on for which `matching` was found."""
        action = self.action
        if action is _LOG:
            return True
        return bool(matching) is (action is _ALLOW)


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
        self._stats = RbacStats()
        self._shadow_stats = RbacStats()

    def connect(self, services: Services) -> None:
        """See filters.base: the filter is in force."""
        self._stats = services.rbac_stats(self.settings.prefix)
        self._shadow_stats = services.rbac_stats(self.settings.shadow_prefix)

    def on_request(self, context: RequestContext) -> Verdict:
        """See filters.base. Shadow rules come first, as in Envoy."""
        shadow, rules = self.settings.shadow_rules, self.settings.rules
        if shadow is not None:
            self._shadow(shadow, context)
        if rules is None:
            return None
        matching = rules.matching(context)
        if rules.lets_in(matching):
            self._stats.allowed += 1
            return None
        self._stats.denied += 1
        policy = "_".join(matching.split()) or _NONE
        return LocalReply(_FORBIDDEN, Flag.NONE, f"rbac_access_denied_matched_policy[{policy}]", _BODY)

    def _shadow(self, rules: Rules, context: RequestContext) -> None:
        matching = rules.matching(context)
        if rules.lets_in(matching):
            self._shadow_stats.shadow_allowed += 1
            return
        self._shadow_stats.shadow_denied += 1
        context.record.notes[NOTE] = f"would have been denied, matched policy {matching or _NONE}"
