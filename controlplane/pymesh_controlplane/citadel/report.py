"""What citadel knows of who trusts what, and whether a step of a rotation would be too early. Pure.

Commands read this, too: nothing here needs `cryptography`, which takes a tenth of a second to load.
"""

import enum
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pymesh.errors import MeshError

# Of many workloads that hold a step up, how many are named.
NAMED: Final = 5


class Step(enum.StrEnum):
    """A step of a rotation."""

    DISTRIBUTE = "distribute"
    SIGN = "sign"
    RETIRE = "retire"


class RotationError(MeshError):
    """A step that is not taken; the text says why, and what to wait for."""


def following(done: Step | None) -> Step:
    """The step after `done`; after none, and after the last, the first."""
    return {Step.DISTRIBUTE: Step.SIGN, Step.SIGN: Step.RETIRE}.get(done or Step.RETIRE, Step.DISTRIBUTE)


@dataclass(frozen=True, slots=True)
class Holder:
    """What a workload has said last.

    Attributes:
        pod: `reviews-v1-0.bookinfo`.
        trusts: the version of the roots that it has in force; "" if it has taken none.
        leaf: fingerprint of the root that its own certificate leads to; "" if it has none.
        problem: why it has refused the newest roots; "" if it has not.
    """

    pod: str
    trusts: str = ""
    leaf: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What one replica of citadel knows.

    Attributes:
        kind: `self-signed`, or `plugged` where somebody brought it; `place`: where it is kept.
        version: of the roots, as holders say it.
        roots: fingerprint, subject and end of each; the first is the one that signs.
        signer_ends: when what signs leaves ends: an intermediate, or the first root itself.
        settle: seconds until the roots have reached pods that start: they get them as a file.
        holders: who follows this replica.
        expected: the pods that have a certificate of the mesh, as `Holder.pod`.
        problem: why what is kept is not in force; "" if it is.
    """

    kind: str
    place: str
    done: Step | None
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
        return following(self.done)

    def as_json(self) -> dict[str, Any]:
        """For programs, and for `from_json`."""
        return {
            "kind": self.kind,
            "place": self.place,
            "step": str(self.done) if self.done else None,
            "since": self.since.isoformat() if self.since else None,
            "version": self.version,
            "roots": [
                {"fingerprint": root.fingerprint, "subject": root.subject, "notAfter": root.ends.isoformat()}
                for root in self.roots
            ],
            "signerNotAfter": self.signer_ends.isoformat(),
            "settleSeconds": self.settle,
            "workloads": [
                {"pod": item.pod, "trusts": item.trusts, "certificateOf": item.leaf, "problem": item.problem}
                for item in self.holders
            ],
            "expected": list(self.expected),
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Report":
        """The report in `document`.

        Raises:
            RotationError: that is none.
        """
        try:
            return cls(
                kind=str(document["kind"]),
                place=str(document["place"]),
                done=Step(document["step"]) if document["step"] else None,
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
            raise RotationError(f"citadel answers what this version of pymesh cannot read: {error!r}") from None


@dataclass(frozen=True, slots=True)
class RootFacts:
    """A root as people are told of it."""

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
        expected: pods that must have said what they trust.
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
    """Replicas that are not of one mind."""
    reports = list(reports)
    if len({(report.done, report.version) for report in reports}) > 1:
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
