"""How a root that citadel made itself is replaced, in three steps, none of which breaks a handshake. Pure.

    distribute   a new root is made; everybody is told to trust it beside the old one; the old one signs on
    sign         the new root signs; everybody renews its certificate at once; the old root is trusted as well
    retire       only the new root is trusted

A step is too early if it would cut somebody off: a workload that does not trust the new root yet (before `sign`), or
that still shows a certificate of the old one (before `retire`). Each workload reports itself what it trusts and shows
(`bundles`); one that reports nothing holds the rotation up, since nobody can know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pymesh_controlplane.citadel.authority import Authority, CaKey
from pymesh_controlplane.citadel.report import NAMED, Holder, RootFacts, RotationError, Step, next_step, version_of


@dataclass(frozen=True, slots=True)
class Pair:
    """A root and its key."""

    certificate: x509.Certificate
    key: CaKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class OwnRoots:
    """The roots that citadel has made: the one that signs, and what is under way to replace it.

    Attributes:
        signer: signs the leaves.
        next: between `distribute` and `sign`: will sign.
        old: between `sign` and `retire`: signed before, and is trusted while its leaves are in use. Its key is gone.
        since: when the last step was taken, with time zone; None if no rotation is under way.
    """

    signer: Pair
    next: Pair | None = None
    old: x509.Certificate | None = None
    since: datetime | None = None

    @property
    def last_step(self) -> Step | None:
        """The last step of the rotation that is under way; None if there is none."""
        return Step.DISTRIBUTE if self.next else Step.SIGN if self.old else None

    def authority(self, trust_domain: str) -> Authority:
        """What signs, and what is trusted."""
        more = self.next.certificate if self.next else self.old
        roots = (self.signer.certificate, *((more,) if more else ()))
        return Authority(trust_domain, self.signer.certificate, self.signer.key, (), roots)


def advance(own: OwnRoots, step: Step, now: datetime, new: Pair | None = None) -> OwnRoots:
    """The roots after `step`; `new` is the root that `distribute` brings.

    Raises:
        RotationError: it is not the turn of `step`.
    """
    if step is not next_step(own.last_step):
        under_way = f"the last step was {own.last_step}" if own.last_step else "no rotation is under way"
        raise RotationError(f"{under_way}: the next one is {next_step(own.last_step)}, not {step}")
    if step is Step.DISTRIBUTE:
        if new is None:
            raise RotationError("there is no new root to distribute")
        return replace(own, next=new, since=now)
    if step is Step.SIGN and own.next is not None:
        return OwnRoots(own.next, old=own.signer.certificate, since=now)
    return OwnRoots(own.signer)


def too_early(before: Authority, after: Authority, holders: Sequence[Holder], settled: bool) -> str:
    """Why `after` cannot replace `before` yet without a failed handshake, in a sentence; empty if it can.

    Args:
        holders: the workloads, and what each said last.
        settled: whether the roots of `before` have had the time to reach pods that start (see Report.settle).
    """
    trusted = {fingerprint(root) for root in before.roots}
    trusted_after = {fingerprint(root) for root in after.roots}
    signs = fingerprint(after.roots[0])
    if signs not in trusted:
        return (
            "its root is one that nobody trusts yet. Put it beside the old one into root-cert.pem, and leave the old "
            "ca-cert.pem and ca-key.pem as long as that is told. (A control plane that is restarted takes it, and cuts "
            "everybody off)"
        )
    if signs != fingerprint(before.roots[0]):
        version = version_of(before.root_pem)
        if behind := sorted(item.pod for item in holders if item.trusts != version):
            return f"not trusted yet by {', '.join(behind[:NAMED])} ({len(behind)} in all)"
        if not settled:
            return "the roots in force are so new that pods that start may not have them yet"
    gone = trusted - trusted_after
    if behind := sorted(item.pod for item in holders if item.leaf in gone):
        return f"a root is gone of which {', '.join(behind[:NAMED])} show certificates ({len(behind)} in all)"
    return ""


def facts_of(certificate: x509.Certificate) -> RootFacts:
    """What people are told of a root."""
    return RootFacts(fingerprint(certificate), certificate.subject.rfc4514_string(), certificate.not_valid_after_utc)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, hex, as `openssl x509 -fingerprint -sha256` has it without the colons."""
    return certificate.fingerprint(hashes.SHA256()).hex()
