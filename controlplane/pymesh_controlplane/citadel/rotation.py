"""How a root that citadel made by itself is replaced, in three steps, none of which breaks a handshake. Pure.

    distribute   a new root is made; everybody is told to trust it beside the old one; the old one signs on
    sign         the new root signs; everybody renews its certificate at once; the old root is trusted as well
    retire       only the new root is trusted

A step is taken too early if somebody would be cut off by it: who does not trust the new root yet (before `sign`), or
still shows a certificate of the old one (before `retire`). Who trusts what, and shows what, each workload says itself
(`bundles`); a workload that says nothing holds the rotation up, since nobody can know.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pymesh_controlplane.citadel.authority import Authority, CaKey
from pymesh_controlplane.citadel.report import RootFacts, RotationError, Step, following


@dataclass(frozen=True, slots=True)
class Pair:
    """A root and its key."""

    certificate: x509.Certificate
    key: CaKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Kept:
    """The roots that citadel has made.

    Attributes:
        signer: signs the leaves.
        next: after `distribute`: will sign.
        old: after `sign`: signed before, and is trusted as long as its leaves are in use. Its key is gone.
        since: when the last step was taken; None if none is under way.
    """

    signer: Pair
    next: Pair | None = None
    old: x509.Certificate | None = None
    since: datetime | None = None

    @property
    def done(self) -> Step | None:
        """The last step of the rotation that is under way; None: none is."""
        return Step.DISTRIBUTE if self.next else Step.SIGN if self.old else None

    def authority(self, trust_domain: str) -> Authority:
        """What signs, and what is trusted."""
        more = self.next.certificate if self.next else self.old
        roots = (self.signer.certificate, *((more,) if more else ()))
        return Authority(trust_domain, self.signer.certificate, self.signer.key, (), roots)


def taken(kept: Kept, step: Step, now: datetime, new: Pair | None = None) -> Kept:
    """What is kept after `step`; `new` is the root that `distribute` brings.

    Raises:
        RotationError: it is not the turn of `step`.
    """
    if step is not following(kept.done):
        under_way = f"the last step was {kept.done}" if kept.done else "no rotation is under way"
        raise RotationError(f"{under_way}: the next one is {following(kept.done)}, not {step}")
    if step is Step.DISTRIBUTE:
        if new is None:
            raise RotationError("there is no new root to distribute")
        return replace(kept, next=new, since=now)
    if step is Step.SIGN and kept.next is not None:
        return Kept(kept.next, old=kept.signer.certificate, since=now)
    return Kept(kept.signer)


def facts_of(certificate: x509.Certificate) -> RootFacts:
    """See RootFacts."""
    return RootFacts(fingerprint(certificate), certificate.subject.rfc4514_string(), certificate.not_valid_after_utc)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, hex, as `openssl x509 -fingerprint -sha256` has it without the colons."""
    return certificate.fingerprint(hashes.SHA256()).hex()
