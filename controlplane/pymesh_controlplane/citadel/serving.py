"""The control plane's own certificate: issued by citadel, renewed at half its life, swapped without a restart."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from ssl import SSLContext
from typing import Final

from pymesh import names
from pymesh_controlplane.citadel.authority import LEAF_LIFETIME, Authority, CsrError
from pymesh_controlplane.citadel.frontend import load_certificate

log = logging.getLogger("pymesh.citadel")

# ARCHITECTURE.md, "Sidecar and control plane".
SERVER_NAMES: Final = (
    f"pilot.{names.SYSTEM_NAMESPACE}.svc",
    f"pilot.{names.SYSTEM_NAMESPACE}.svc.{names.CLUSTER_DOMAIN}",
    "pilot",
)
# Until the next try after a renewal that failed: the certificate has half its life left.
RETRY: Final = timedelta(minutes=5)


def renew(
    authority: Authority,
    context: SSLContext,
    *,
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
    dns_names: tuple[str, ...] = SERVER_NAMES,
) -> datetime:
    """Give `context` a new certificate under `dns_names`; answers when the next one is due.

    Raises:
        CsrError: the authority has expired.
    """
    issued, key = authority.issue_server(dns_names, now=now, lifetime=lifetime)
    load_certificate(context, "".join(issued.chain[:-1]), key)
    return now + (issued.expires - now) / 2


async def keep_fresh(
    authority: Authority,
    context: SSLContext,
    due: datetime,
    *,
    clock: Callable[[], datetime],
    lifetime: timedelta = LEAF_LIFETIME,
    dns_names: tuple[str, ...] = SERVER_NAMES,
) -> None:
    """Renew `context`'s certificate whenever it is due, until cancelled."""
    while True:
        await asyncio.sleep(max(0.0, (due - clock()).total_seconds()))
        try:
            due = renew(authority, context, now=clock(), lifetime=lifetime, dns_names=dns_names)
        except CsrError as error:
            log.error("the control plane's own certificate was not renewed: %s", error)
            due = clock() + RETRY
        else:
            log.info("the control plane's own certificate was renewed; the next is due at %s", due.isoformat())
