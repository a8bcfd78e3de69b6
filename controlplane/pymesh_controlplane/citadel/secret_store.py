"""The authority in a Secret of the cluster: brought along in `cacerts`, or made, once, in `pymesh-ca`.

`cacerts` has the documents that `pem` lists, under Istio's names. Without it citadel makes its own authority and keeps
it in `pymesh-ca`: the first replica creates the Secret, and the others take what is in it. Only a step of a rotation
overwrites what is there; damaged data never is.

RBAC, in the namespace of the control plane: secrets get, create; and update of `pymesh-ca`.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from lightkube import AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from pymesh import names
from pymesh_controlplane.citadel import pem
from pymesh_controlplane.citadel.report import RotationError
from pymesh_controlplane.citadel.rotation import OwnRoots
from pymesh_controlplane.citadel.stored import Stored, digest_of
from pymesh_controlplane.kube.asking import CONFLICT, NOT_FOUND, KubernetesError, ask, patiently

log = logging.getLogger("pymesh.citadel")

PLUGGED: Final = names.CA_SECRET_PLUGGED
OWN: Final = names.CA_SECRET_OWN


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

    async def load(self, clock: Callable[[], datetime]) -> Stored:
        """What `read` answers; waits as long as the API server does not answer.

        Raises:
            ConfigError: what is there is damaged, expired or incomplete.
        """
        stored = await patiently(lambda: self.read(now=clock()), self._wait)
        self.waiting = ""
        return stored

    def _wait(self, why: str) -> None:
        self.waiting = f"waiting for the CA in Secret {self._namespace}/{PLUGGED} or {OWN}: {why}"
        log.warning("%s", self.waiting)

    async def read(self, *, now: datetime) -> Stored:
        """See `stored.Store`."""
        if (brought := await self._read(PLUGGED)) is not None:
            place = self._where(PLUGGED)
            authority = pem.plugged(brought, f"{place}, ", self._trust_domain, now=now)
            return Stored(authority, None, place, digest_of(brought))
        documents = await self._read(OWN) or await self._create(now)
        place = self._where(OWN)
        own = pem.own_roots(documents, lambda name: f"{place}, {name}", now=now)
        return Stored(own.authority(self._trust_domain), own, place, digest_of(documents))

    async def write(self, own: OwnRoots, before: Stored) -> None:
        """See `stored.Store`. The version of the Secret that was looked at is the precondition."""
        changed = RotationError(f"{before.place} has changed meanwhile: look at pymesh ca status")
        if await self._read(PLUGGED) is not None:
            raise changed
        try:
            secret = await ask(self._client.get(Secret, OWN, namespace=self._namespace))
            if digest_of(self._documents(OWN, secret)) != before.digest:
                raise changed
            secret.data = _encoded(pem.documents_of(own))
            await ask(self._client.replace(secret))
        except KubernetesError as error:
            if error.code in {CONFLICT, NOT_FOUND}:
                raise changed from error
            raise

    async def _create(self, now: datetime) -> dict[str, bytes]:
        new = OwnRoots(await asyncio.to_thread(pem.new_pair, self._trust_domain, now=now))
        metadata = ObjectMeta(name=OWN, namespace=self._namespace, labels={"app.kubernetes.io/part-of": "pymesh"})
        data = _encoded(pem.documents_of(new))
        try:
            await ask(self._client.create(Secret(metadata=metadata, data=data, type="Opaque")))
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
        return self._documents(name, secret)

    def _documents(self, name: str, secret: Secret) -> dict[str, bytes]:
        try:
            return {key: base64.b64decode(value, validate=True) for key, value in (secret.data or {}).items()}
        except (binascii.Error, ValueError) as error:
            raise pem.refuse(self._where(name), "is not base64") from error

    def _where(self, name: str) -> str:
        return f"Secret {self._namespace}/{name}"


def _encoded(documents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(content).decode() for name, content in documents.items()}
