"""The control plane's own certificate: issued by citadel, renewed at half its life, swapped without a restart."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from ssl import SSLContext
from typing import Final

from pymesh import names
from pymesh_controlplane.citadel.authority import LEAF_LIFETIME, Authority, CsrError
from pymesh_controlplane.citadel.frontend import load_certificate, server_context
from pymesh_controlplane.citadel.trust import Trust

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


async def wait(news: asyncio.Event, seconds: float) -> None:
    """Wait for `news`, for so many seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await news.wait()


async def keep_fresh(
    trust: Trust,
    context: SSLContext,
    due: datetime,
    *,
    clock: Callable[[], datetime],
    lifetime: timedelta = LEAF_LIFETIME,
    dns_names: tuple[str, ...] = SERVER_NAMES,
    use: Callable[[SSLContext], None] | None = None,
) -> None:
    """Renew `context`'s certificate whenever it is due, and when another authority signs, until cancelled.

    Args:
        use: takes another context where clients are asked for certificates: nothing takes a root back out of one.
    """
    other = asyncio.Event()
    unsubscribe = trust.subscribe(other.set)
    authority = trust.authority
    try:
        while True:
            await wait(other, max(0.0, (due - clock()).total_seconds()))
            other.clear()
            changed, authority = trust.authority != authority, trust.authority
            fresh = server_context(authority.root_pem) if changed and use is not None else context
            try:
                due = renew(authority, fresh, now=clock(), lifetime=lifetime, dns_names=dns_names)
            except CsrError as error:
                log.error("the control plane's own certificate was not renewed: %s", error)
                due = clock() + RETRY
            else:
                context = fresh
                if use is not None:
                    use(context)
                log.info("the control plane's own certificate was renewed; the next is due at %s", due.isoformat())
    finally:
        unsubscribe()
