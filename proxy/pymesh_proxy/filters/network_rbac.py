"""Role-based access control for connections whose bytes are opaque. Pure.

A connection is decided on once, as soon as it is known who connects and before any byte is passed on. (Envoy waits for
the client's first byte, and by then has passed the server's greeting on to a client that it denies.) The rules ask
nothing about requests.

Source: envoy.extensions.filters.network.rbac.v3.RBAC
"""

from typing import Final

from pymesh.xds.filter_names import NETWORK_RBAC
from pymesh_proxy.filters.access_rules import Rules
from pymesh_proxy.filters.rbac import RbacSettings, denied_by, try_out
from pymesh_proxy.filters.services import Services
from pymesh_proxy.telemetry.rbac_metrics import RbacStats
from pymesh_proxy.telemetry.record import RequestRecord

NAME: Final = NETWORK_RBAC


class NetworkRbac:
    """The access rules of one filter chain."""

    def __init__(self, settings: RbacSettings) -> None:
        """The rules of `settings` must not depend on requests."""
        self.settings = settings
        self._stats = RbacStats()
        self._shadow_stats = RbacStats()

    def connect(self, services: Services) -> None:
        """See filters.base: the rules are in force."""
        self._stats = services.network_rbac_stats(self.settings.prefix)
        self._shadow_stats = services.network_rbac_stats(self.settings.prefix + self.settings.shadow_prefix)

    def denies(self, record: RequestRecord) -> str:
        """Why the connection of `record` is denied, as Envoy's response code details; empty if it is let in."""
        settings = self.settings
        if (shadow := settings.shadow_rules) is not None:
            matching, prefix = _matching(shadow, record), settings.shadow_prefix
            try_out(shadow, matching, record, name=NAME, prefix=prefix, stats=self._shadow_stats)
        if (rules := settings.rules) is None:
            return ""
        matching = _matching(rules, record)
        if rules.lets_in(matching):
            self._stats.allowed += 1
            return ""
        self._stats.denied += 1
        return denied_by(matching)


def _matching(rules: Rules, record: RequestRecord) -> str:
    settled = rules.residual(record.facts).settled
    assert settled is not None, "rules of a connection that depend on requests are refused"
    return settled
