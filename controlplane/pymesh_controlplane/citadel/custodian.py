"""Keeps the authority in force in step with its store, and takes the steps of a rotation.

A change of the store is taken up without a restart as soon as it cuts nobody off: a new root signs once everybody
trusts it, and an old one is dropped once nobody shows a certificate of it. A change that comes too early waits, which
is logged and counted. So an authority that was brought along is rotated in the same three steps, by three changes of
its documents.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from pymesh.errors import MeshError
from pymesh_controlplane.citadel import pem, rotation
from pymesh_controlplane.citadel.authority import Authority
from pymesh_controlplane.citadel.report import Holder, Report, RotationError, Step, hindrances, version_of
from pymesh_controlplane.citadel.rotation import fingerprint
from pymesh_controlplane.citadel.stored import Store, Stored
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.metrics import Metrics

log = logging.getLogger("pymesh.citadel")
audit = logging.getLogger("pymesh.citadel.audit")

# Seconds between two looks into the store; for that long replicas may disagree about a step.
LOOK_EVERY: Final = 5.0
# Seconds until a root has reached pods that are about to start. On one machine the supervisor reads the file that
# citadel writes when it starts a pod; a kubelet may give an old ConfigMap to a pod for as long as it keeps one, by
# default a minute, after the leader has written it.
SETTLE_ON_ONE_MACHINE: Final = 2.0
SETTLE_IN_A_CLUSTER: Final = 120.0
# How long before its end an authority is warned of, and how often: replacing one takes people, and their calendars.
SOON: Final = timedelta(days=30)
REMIND_EVERY: Final = timedelta(days=1)


class Custodian:
    """Looks after the authority in `store`, of which `stored` was read.

    Attributes:
        trust: the authority in force.
        holders: the workloads that follow this replica, and what each said last; set by whoever serves them.
        expected: the pods that have a certificate of the mesh, as `Holder.pod`; set likewise.

    Args:
        settle: seconds, see Report.
    """

    def __init__(
        self,
        store: Store,
        stored: Stored,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        settle: float,
    ) -> None:
        self.holders: Callable[[], Sequence[Holder]] = tuple
        self.expected: Callable[[], Collection[str]] = tuple
        self._store = store
        self._stored = stored
        self.trust = Trust(stored.authority)
        self.metrics = metrics
        self._clock = clock
        self._settle = settle
        self._problem = ""
        self._remind_at: datetime | None = None
        self._since = clock()  # when what is in force came into force
        self._turn = asyncio.Lock()
        self._dates()

    async def run(self) -> None:
        """Look every LOOK_EVERY seconds, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Put what is in the store in force, if it has changed and nobody is cut off by it."""
        self._dates()
        async with self._turn:
            try:
                stored = await self._store.read(now=self._clock())
            except MeshError as error:
                self._trouble(f"the CA cannot be read, and the one read before stays in force: {error}")
                return
            if stored.digest == self._stored.digest:
                self._trouble("")
                return
            # A step of citadel's own has been judged by whoever took it, perhaps another replica; a root that came from
            # elsewhere, as out of a backup, has not.
            citadels = stored.own is not None and self._stored.own is not None
            holders, settled = ((), True) if citadels else (self.holders(), self._settled())
            if early := rotation.too_early(self.trust.authority, stored.authority, holders, settled):
                self._trouble(f"{stored.place} has changed, and is not taken yet: {early}")
                return
            self._take(stored)

    async def rotate(self, step: Step) -> Report:
        """Take `step`; what is reported afterwards.

        Raises:
            RotationError: it is too early or out of turn, or the root is not citadel's to replace.
            MeshError: it cannot be kept; nothing has changed.
        """
        async with self._turn:
            own = self._stored.own
            if own is None:
                raise RotationError(
                    f"the CA was brought along ({self._stored.place}), and its root is yours to replace: put the new "
                    "root beside the old one into root-cert.pem; then ca-cert.pem, ca-key.pem and cert-chain.pem of "
                    "the new one; then take the old root out. Each is taken up as soon as nobody is cut off by it"
                )
            if why := hindrances([self.report()], step, self._clock()):
                raise RotationError("; ".join(why))
            now, trust_domain = self._clock(), self.trust.authority.trust_domain
            new = await asyncio.to_thread(pem.new_pair, trust_domain, now=now) if step is Step.DISTRIBUTE else None
            after = rotation.advance(own, step, now, new)
            await self._store.write(after, self._stored)
            audit.info("rotation: step=%s roots=%s", step, _told(after.authority(trust_domain)))
            self._take(await self._store.read(now=now))
            return self.report()

    def report(self) -> Report:
        """What this replica knows now."""
        authority, own = self.trust.authority, self._stored.own
        return Report(
            kind="self-signed" if own else "plugged",
            place=self._stored.place,
            last_step=own.last_step if own else None,
            since=own.since if own else None,
            version=version_of(authority.root_pem),
            roots=tuple(map(rotation.facts_of, authority.roots)),
            signer_ends=_signer_ends(authority),
            settle=self._settle,
            holders=tuple(self.holders()),
            expected=tuple(sorted(self.expected())),
            problem=self._problem,
        )

    def _take(self, stored: Stored) -> None:
        log.info(
            "the CA in %s is in force; trusted roots, the one that signs first: %s",
            stored.place,
            _told(stored.authority),
        )
        self._stored = stored
        self._trouble("")
        self._remind_at = None
        self._since = self._clock()
        self.trust.use(stored.authority)
        self._dates()

    def _settled(self) -> bool:
        """Whether the roots in force have reached everybody by now, also followers of other replicas."""
        return self._clock() >= self._since + timedelta(seconds=self._settle)

    def _trouble(self, problem: str) -> None:
        if problem and problem != self._problem:
            self.metrics.count("citadel_server_ca_changes")
            log.error("%s", problem)
        self._problem = problem

    def _dates(self) -> None:
        """Show when the authority ends, and say so when that is soon."""
        authority, now = self.trust.authority, self._clock()
        roots_end = min(root.not_valid_after_utc for root in authority.roots)
        signer_ends = _signer_ends(authority)
        self.metrics.set("citadel_server_root_cert_expiry_timestamp", roots_end.timestamp())
        self.metrics.set("citadel_server_cert_chain_expiry_timestamp", signer_ends.timestamp())
        if signer_ends - now < SOON and (self._remind_at is None or now >= self._remind_at):
            self._remind_at = now + REMIND_EVERY
            log.warning(
                "the CA in %s ends at %s, and no certificate outlives it: replace it (pymesh ca status)",
                self._stored.place,
                signer_ends.isoformat(timespec="seconds"),
            )


def _signer_ends(authority: Authority) -> datetime:
    return min(
        item.not_valid_after_utc for item in (*authority.intermediates, authority.certificate, authority.roots[0])
    )


def _told(authority: Authority) -> str:
    return ", ".join(fingerprint(root)[:16] for root in authority.roots)
