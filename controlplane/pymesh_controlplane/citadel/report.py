"""What citadel knows of which workload trusts what, and whether a step of a rotation would be too early. Pure.

The command line reads this, too: nothing here needs `cryptography`, which takes a tenth of a second to load.
"""

import enum
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pymesh.errors import MeshError

# How many workloads are named of those that hold a step up.
NAMED: Final = 5


class Step(enum.StrEnum):
    """A step of a rotation."""

    DISTRIBUTE = "distribute"
    SIGN = "sign"
    RETIRE = "retire"


class RotationError(MeshError):
    """A step was not taken; the text says why, and what to wait for."""


def next_step(last_step: Step | None) -> Step:
    """The step after `last_step`; the first one after `retire`, and where no rotation is under way (None)."""
    return {Step.DISTRIBUTE: Step.SIGN, Step.SIGN: Step.RETIRE}.get(last_step or Step.RETIRE, Step.DISTRIBUTE)


@dataclass(frozen=True, slots=True)
class Holder:
    """A workload that holds the mesh's roots, and what it said last.

    Attributes:
        pod: `reviews-v1-0.bookinfo`.
        trusts: the version of the roots that it has in force (see `version_of`); "" if it has none.
        leaf: fingerprint of the root that its own certificate leads to; "" if it has no certificate.
        problem: why it has refused the newest roots; "" if it has not.
    """

    pod: str
    trusts: str = ""
    leaf: str = ""
    problem: str = ""

    def as_json(self) -> dict[str, str]:
        """For programs."""
        return {"pod": self.pod, "trusts": self.trusts, "certificateOf": self.leaf, "problem": self.problem}


@dataclass(frozen=True, slots=True)
class Report:
    """What one replica of citadel knows.

    Attributes:
        kind: `self-signed`, or `plugged` for an authority that was brought along; `place`: where it is stored.
        last_step: the last step of the rotation that is under way, taken at `since`; None if there is none.
        version: of the roots, as `Holder.trusts` has it.
        roots: the first is the one that signs, or above what signs.
        signer_ends: when the signing certificate ends, an intermediate or the first root itself.
        settle: seconds until new roots have reached pods that start, which get them as a file.
        holders: the workloads that follow this replica.
        expected: the pods that have a certificate of the mesh, as `Holder.pod`.
        problem: why what is stored is not in force; "" if it is.
    """

    kind: str
    place: str
    last_step: Step | None
    since: datetime | None
    version: str
    roots: tuple["RootFacts", ...]
    signer_ends: datetime
    settle: float
    holders: tuple[Holder, ...]
    expected: tuple[str, ...] = ()
    problem: str = ""

    @property
    def next(self) -> Step:
        """The step that is next."""
        return next_step(self.last_step)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON, for programs and `from_json`."""
        return {
            "kind": self.kind,
            "place": self.place,
            "step": str(self.last_step) if self.last_step else None,
            "since": self.since.isoformat() if self.since else None,
            "version": self.version,
            "roots": [
                {"fingerprint": root.fingerprint, "subject": root.subject, "notAfter": root.ends.isoformat()}
                for root in self.roots
            ],
            "signerNotAfter": self.signer_ends.isoformat(),
            "settleSeconds": self.settle,
            "workloads": [holder.as_json() for holder in self.holders],
            "expected": list(self.expected),
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Report":
        """The report in `document`.

        Raises:
            RotationError: it is no report that this version can read.
        """
        try:
            return cls(
                kind=str(document["kind"]),
                place=str(document["place"]),
                last_step=Step(document["step"]) if document["step"] else None,
                since=datetime.fromisoformat(document["since"]) if document["since"] else None,
                version=str(document["version"]),
                roots=tuple(
                    RootFacts(root["fingerprint"], root["subject"], datetime.fromisoformat(root["notAfter"]))
                    for root in document["roots"]
                ),
                signer_ends=datetime.fromisoformat(document["signerNotAfter"]),
                settle=float(document["settleSeconds"]),
                holders=tuple(
                    Holder(item["pod"], item["trusts"], item["certificateOf"], item["problem"])
                    for item in document["workloads"]
                ),
                expected=tuple(map(str, document["expected"])),
                problem=str(document["problem"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RotationError(
                f"citadel's report cannot be read: {error!r}; are this command and the control plane of one version?"
            ) from None


@dataclass(frozen=True, slots=True)
class RootFacts:
    """What people are told of a root: SHA-256 in hex, subject, and when it ends."""

    fingerprint: str
    subject: str
    ends: datetime


def version_of(roots_pem: str) -> str:
    """The version of a bundle of roots: equal for equal content, whoever serves it."""
    return hashlib.sha256(roots_pem.encode()).hexdigest()


def hindrances(reports: Sequence[Report], step: Step, now: datetime, *, expected: Collection[str] = ()) -> list[str]:
    """Why `step` would be too early, in sentences; empty if it may be taken.

    Args:
        reports: of every replica, or of the one that asks itself.
        expected: pods that must have reported what they trust.
    """
    found = list(_apart(reports, step))
    if step is Step.DISTRIBUTE or found:
        return found
    first = reports[0]
    holders = [holder for report in reports for holder in report.holders]
    if step is Step.SIGN:
        behind = {item.pod: item.problem for item in holders if item.trusts != first.version}
        if behind:
            found.append(f"{_some(behind, len(holders))} not trust the new root yet: {_named(behind)}")
    else:
        behind = {item.pod: item.problem for item in holders if item.leaf != first.roots[0].fingerprint}
        if behind:
            found.append(f"{_some(behind, len(holders))} not show a certificate of the new root yet: {_named(behind)}")
    if silent := set(expected).difference(item.pod for item in holders):
        named = _named(dict.fromkeys(sorted(silent), ""))
        found.append(f"no word from {named}: the proxy there has to reach the control plane first (pymesh status)")
    since = max((report.since for report in reports if report.since), default=now)
    settled = since + timedelta(seconds=first.settle)
    if step is Step.SIGN and now < settled:
        found.append(f"pods that start get the roots as a file, which takes until {settled:%H:%M:%S} UTC to be renewed")
    return found


def _apart(reports: Iterable[Report], step: Step) -> Iterator[str]:
    """Why the replicas cannot take `step` together: they disagree, one has a problem, or it is not its turn."""
    reports = list(reports)
    if len({(report.last_step, report.version) for report in reports}) > 1:
        yield "the replicas of the control plane have not all read the last step yet: wait some seconds"
    for report in reports:
        if report.problem:
            yield report.problem
    if reports and reports[0].next is not step:
        yield f"the next step is {reports[0].next}"


def _some(behind: Collection[str], number: int) -> str:
    return f"{len(behind)} of {number} workloads {'does' if len(behind) == 1 else 'do'}"


def _named(pods: Mapping[str, str]) -> str:
    some = [f"{pod} ({why})" if why else pod for pod, why in sorted(pods.items())[:NAMED]]
    return ", ".join(some) + (f" and {len(pods) - NAMED} more" if len(pods) > NAMED else "")
