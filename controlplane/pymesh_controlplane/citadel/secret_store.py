"""The authority in a Secret of the cluster: brought along in `cacerts`, or made, once, in `pymesh-ca`.

`cacerts` has the documents that `pem` tells of, under Istio's names. Where nobody made it before citadel came, citadel
makes its own authority and keeps it in `pymesh-ca`: whichever replica comes first creates the Secret, and the others
take what is in it. What is there is never overwritten, also not where it is damaged.

RBAC, in the namespace of the control plane: secrets get, create.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lightkube import AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from pymesh import names
from pymesh_controlplane.citadel import pem
from pymesh_controlplane.citadel.authority import Authority
from pymesh_controlplane.kube.asking import CONFLICT, NOT_FOUND, KubernetesError, ask, patiently
from pymesh_controlplane.metrics import Metrics

log = logging.getLogger("pymesh.citadel")

PLUGGED: Final = names.CA_SECRET_PLUGGED
OWN: Final = names.CA_SECRET_OWN
# Seconds between two looks whether somebody has changed it: a root is changed once in years, by a person.
LOOK_EVERY: Final = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """The Secret that the authority is from, and a digest of its content."""

    name: str
    digest: str


class SecretStore:
    """The CA's Secrets in `namespace`.

    Attributes:
        waiting: why the authority is not there yet; "" when it is.
    """

    def __init__(self, client: AsyncClient, namespace: str, trust_domain: str) -> None:
        self.waiting = "waiting for the CA to be read"
        self._client = client
        self._namespace = namespace
        self._trust_domain = trust_domain
        self._found: Found | None = None
        self._told: Found | None = None

    async def load(self, clock: Callable[[], datetime]) -> Authority:
        """The authority; waits as long as the API server does not answer.

        Raises:
            ConfigError: what is there is damaged, expired or incomplete.
        """
        authority = await patiently(lambda: self.load_or_create(now=clock()), self._wait)
        self.waiting = ""
        return authority

    def _wait(self, why: str) -> None:
        self.waiting = f"waiting for the CA in Secret {self._namespace}/{PLUGGED} or {OWN}: {why}"
        log.warning("%s", self.waiting)

    async def load_or_create(self, *, now: datetime) -> Authority:
        """The authority, made if there is none.

        Raises:
            KubernetesError: the API server does not answer, or says no.
            ConfigError: what is there is damaged, expired or incomplete.
        """
        if (brought := await self._read(PLUGGED)) is not None:
            authority = pem.plugged(brought, f"{self._where(PLUGGED)}, ", self._trust_domain, now=now)
            self._found = Found(PLUGGED, _digest(brought))
            return authority
        own = await self._read(OWN) or await self._create(now)
        for name in (pem.CERTIFICATE, pem.KEY):
            if name not in own:
                raise pem.refuse(f"{self._where(OWN)}, {name}", "is missing: restore the Secret from a backup")
        where = self._where(OWN)
        authority = pem.own_root(own[pem.CERTIFICATE], own[pem.KEY], where, self._trust_domain, now=now)
        self._found = Found(OWN, _digest(own))
        return authority

    async def watch(self, metrics: Metrics) -> None:
        """Tell, and count, when the Secret is not any more what was read at the start; until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look(metrics)

    async def look(self, metrics: Metrics) -> None:
        """See `watch`: once."""
        try:
            now = await self._now()
        except KubernetesError as error:
            log.warning("whether the CA has changed cannot be seen: %s", error)
            return
        if now not in (self._found, self._told):
            metrics.count("citadel_server_ca_changes")
            used = self._where(self._found.name if self._found else OWN)
            log.error(
                "the CA has changed: now it is %s. This process goes on with what it read from %s when it started; "
                "restart the control plane to have it take the new one",
                f"in {self._where(now.name)}" if now else "in no Secret",
                used,
            )
        self._told = now

    async def _now(self) -> Found | None:
        for name in (PLUGGED, OWN):
            if (there := await self._read(name)) is not None:
                return Found(name, _digest(there))
        return None

    async def _create(self, now: datetime) -> dict[str, bytes]:
        certificate, key = await asyncio.to_thread(pem.new_pair, self._trust_domain, now=now)
        data = {pem.CERTIFICATE: certificate, pem.KEY: key}
        metadata = ObjectMeta(name=OWN, namespace=self._namespace, labels={"app.kubernetes.io/part-of": "pymesh"})
        encoded = {name: base64.b64encode(content).decode() for name, content in data.items()}
        try:
            await ask(self._client.create(Secret(metadata=metadata, data=encoded, type="Opaque")))
        except KubernetesError as error:
            if error.code != CONFLICT:
                raise
        else:
            log.info("made a new root: %s", self._where(OWN))
        # Also after an answer that was lost: what counts is what is there.
        there = await self._read(OWN)
        if there is None:
            raise KubernetesError(f"{self._where(OWN)} was there and is gone")
        return there

    async def _read(self, name: str) -> dict[str, bytes] | None:
        """The documents in a Secret; None if there is no such Secret."""
        try:
            secret = await ask(self._client.get(Secret, name, namespace=self._namespace))
        except KubernetesError as error:
            if error.code == NOT_FOUND:
                return None
            raise
        try:
            return {key: base64.b64decode(value, validate=True) for key, value in (secret.data or {}).items()}
        except (binascii.Error, ValueError) as error:
            raise pem.refuse(self._where(name), "is not base64") from error

    def _where(self, name: str) -> str:
        return f"Secret {self._namespace}/{name}"


def _digest(data: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(data):
        digest.update(f"{name} {len(data[name])} ".encode() + data[name])
    return digest.hexdigest()
