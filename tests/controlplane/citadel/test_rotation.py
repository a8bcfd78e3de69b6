"""When which step of a rotation may be taken, how it is kept, and what it makes of an authority."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pymesh.errors import ConfigError
from pymesh_controlplane.citadel import pem
from pymesh_controlplane.citadel.authority import Authority
from pymesh_controlplane.citadel.custodian import Custodian
from pymesh_controlplane.citadel.report import Holder, Report, RotationError, Step, hindrances, version_of
from pymesh_controlplane.citadel.rotation import OwnRoots, Pair, advance, facts_of, fingerprint, too_early
from pymesh_controlplane.citadel.store import ROTATION, SELF_SIGNED, FileStore
from pymesh_controlplane.metrics import Metrics

NOW = datetime.now(UTC).replace(microsecond=0)
OLD, NEW = (pem.new_pair("cluster.local", now=NOW) for _ in range(2))
STEADY = OwnRoots(OLD)
DISTRIBUTED = advance(STEADY, Step.DISTRIBUTE, NOW, NEW)
SIGNING = advance(DISTRIBUTED, Step.SIGN, NOW)


def report(own: OwnRoots, *holders: Holder, settle: float = 0.0) -> Report:
    """What a replica reports that keeps `own`."""
    authority = own.authority("cluster.local")
    return Report(
        kind="self-signed",
        place="here",
        last_step=own.last_step,
        since=own.since,
        version=version_of(authority.root_pem),
        roots=tuple(map(facts_of, authority.roots)),
        signer_ends=authority.certificate.not_valid_after_utc,
        settle=settle,
        holders=holders,
    )


def holder(pod: str, own: OwnRoots, leaf: Pair, problem: str = "") -> Holder:
    """A workload that trusts what `own` says, and shows a certificate of `leaf`."""
    version = version_of(own.authority("cluster.local").root_pem)
    return Holder(pod, version, fingerprint(leaf.certificate), problem)


def test_what_signs_and_what_is_trusted_after_each_step() -> None:
    """The first of the roots is the one that signs: that is how workloads know."""
    steps = [STEADY, DISTRIBUTED, SIGNING, advance(SIGNING, Step.RETIRE, NOW)]
    names = {OLD.certificate: "old", NEW.certificate: "new"}
    authorities = [own.authority("cluster.local") for own in steps]
    assert [[names[root] for root in authority.roots] for authority in authorities] == [
        ["old"],
        ["old", "new"],
        ["new", "old"],
        ["new"],
    ]
    assert [names[authority.certificate] for authority in authorities] == ["old", "old", "new", "new"]
    assert [authority.key for authority in authorities] == [OLD.key, OLD.key, NEW.key, NEW.key]


@pytest.mark.parametrize(
    ("own", "step", "sentence"),
    [
        (STEADY, Step.SIGN, "no rotation is under way: the next one is distribute, not sign"),
        (STEADY, Step.RETIRE, "the next one is distribute, not retire"),
        (DISTRIBUTED, Step.DISTRIBUTE, "the last step was distribute: the next one is sign"),
        (SIGNING, Step.SIGN, "the last step was sign: the next one is retire, not sign"),
    ],
)
def test_no_step_comes_out_of_turn(own: OwnRoots, step: Step, sentence: str) -> None:
    with pytest.raises(RotationError, match=sentence):
        advance(own, step, NOW, NEW)


@pytest.mark.parametrize(
    ("step", "told", "why"),
    [
        (Step.DISTRIBUTE, report(STEADY, holder("a.b", STEADY, OLD)), ""),
        (Step.SIGN, report(DISTRIBUTED, holder("a.b", DISTRIBUTED, OLD)), ""),
        (
            Step.SIGN,
            report(DISTRIBUTED, holder("a.b", STEADY, OLD)),
            "1 of 1 workloads does not trust the new root yet",
        ),
        (
            Step.SIGN,
            report(DISTRIBUTED, holder("a.b", STEADY, OLD, "no certificates"), holder("c.d", DISTRIBUTED, OLD)),
            r"1 of 2 workloads .* a\.b \(no certificates\)",
        ),
        (Step.SIGN, report(DISTRIBUTED, Holder("a.b")), "1 of 1 workloads"),
        (Step.SIGN, report(DISTRIBUTED, settle=60.0), "pods that start get the roots as a file"),
        (Step.RETIRE, report(SIGNING, holder("a.b", SIGNING, NEW)), ""),
        (Step.RETIRE, report(SIGNING, holder("a.b", SIGNING, OLD)), "1 of 1 workloads does not show a certificate"),
        (Step.RETIRE, report(SIGNING, Holder("a.b")), "does not show a certificate of the new root"),
        (Step.SIGN, report(SIGNING, holder("a.b", SIGNING, NEW)), "the next step is retire"),
    ],
)
def test_a_step_that_would_cut_somebody_off_is_too_early(step: Step, told: Report, why: str) -> None:
    found = hindrances([told], step, NOW)
    assert len(found) == bool(why), found
    assert all(re.search(why, sentence) for sentence in found)


def test_who_says_nothing_holds_a_step_up_and_replicas_are_asked_together() -> None:
    """A pod follows one replica; one that follows none might trust anything."""
    replicas = [
        report(DISTRIBUTED, holder("a.b", DISTRIBUTED, OLD)),
        report(DISTRIBUTED, holder("c.d", DISTRIBUTED, OLD)),
    ]
    assert hindrances(replicas, Step.SIGN, NOW, expected=["a.b", "c.d"]) == []
    (sentence,) = hindrances(replicas, Step.SIGN, NOW, expected=["a.b", "c.d", "e.f"])
    assert sentence.startswith("no word from e.f:")
    behind = [replicas[0], report(STEADY, holder("c.d", STEADY, OLD))]
    assert hindrances(behind, Step.SIGN, NOW)[0].startswith("the replicas of the control plane have not all read")


def test_a_report_travels_as_json() -> None:
    told = report(SIGNING, holder("a.b", SIGNING, NEW), settle=3.0)
    assert Report.from_json(told.as_json()) == told
    with pytest.raises(RotationError, match="cannot be read"):
        Report.from_json({"kind": "self-signed"})


# --- kept on disk, over restarts -------------------------------------------------------------------------------------


async def started(folder: Path, clock: Callable[[], datetime] = lambda: NOW) -> Custodian:
    """Citadel's part that keeps the authority, as a process begins with it."""
    store = FileStore(folder, "cluster.local")
    return Custodian(store, await store.read(now=clock()), Metrics(), clock, settle=0.0)


async def test_a_rotation_goes_on_after_a_restart(tmp_path: Path) -> None:
    """After each step; at the end nothing of the old root is left."""
    folder = tmp_path / "ca"
    first = (await started(folder)).trust.authority
    for step in Step:
        custodian = await started(folder)
        assert custodian.report().next is step
        after = await custodian.rotate(step)
        again = await started(folder)
        assert again.trust.authority == custodian.trust.authority
        assert (again.report().last_step, again.report().since) == (after.last_step, after.since)
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert again.trust.authority.certificate != first.certificate
    assert [path.name for path in folder.iterdir()] == [SELF_SIGNED]
    assert first.certificate.public_bytes(Encoding.PEM) not in (folder / SELF_SIGNED).read_bytes()


async def test_a_rotation_that_was_cut_off_at_its_end_ends_again(tmp_path: Path) -> None:
    """The new root is written, the file of the rotation still is there: nothing is lost, and the step is taken anew."""
    folder = tmp_path / "ca"
    custodian = await started(folder)
    for step in (Step.DISTRIBUTE, Step.SIGN):
        await custodian.rotate(step)
    left = (folder / ROTATION).read_bytes()
    await custodian.rotate(Step.RETIRE)
    (folder / ROTATION).write_bytes(left)
    (folder / ROTATION).chmod(0o600)
    again = await started(folder)
    assert again.report().next is Step.RETIRE
    await again.rotate(Step.RETIRE)
    assert again.trust.authority == custodian.trust.authority


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "rotation.json: is not JSON"),
        ("[]", "rotation.json: is not JSON"),
        ("{}", r"rotation.json, ca-cert\.pem: is missing"),
    ],
)
async def test_a_damaged_rotation_is_refused_and_stays_as_it_is(tmp_path: Path, content: str, sentence: str) -> None:
    folder = tmp_path / "ca"
    await started(folder)
    path = folder / ROTATION
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=sentence):
        await started(folder)
    assert path.read_text() == content
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="holds a private key that other users may read"):
        await started(folder)


async def test_what_becomes_unreadable_is_told_and_what_was_read_stays_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "ca"
    custodian = await started(folder)
    before = custodian.trust.authority
    good = (folder / SELF_SIGNED).read_bytes()
    (folder / SELF_SIGNED).write_text("garbage")
    await custodian.look()
    await custodian.look()
    assert custodian.trust.authority == before
    assert caplog.text.count("the one read before stays in force") == 1
    assert "cannot be read" in custodian.report().problem
    assert hindrances([custodian.report()], Step.DISTRIBUTE, NOW)
    other = pem.documents_of(STEADY)
    (folder / SELF_SIGNED).write_bytes(other[pem.KEY] + other[pem.CERTIFICATE])
    await custodian.look()
    assert custodian.trust.authority == before
    assert "is not taken yet: its root is one that nobody trusts yet" in custodian.report().problem
    (folder / SELF_SIGNED).write_bytes(good)
    await custodian.look()
    assert custodian.report().problem == ""


# --- an authority that was brought along -----------------------------------------------------------------------------


def bring(folder: Path, signs: Pair, *roots: Pair) -> None:
    """An operator's files."""
    folder.mkdir(mode=0o700, exist_ok=True)
    documents = pem.documents_of(OwnRoots(signs))
    (folder / pem.CERTIFICATE).write_bytes(documents[pem.CERTIFICATE])
    (folder / pem.ROOT).write_bytes(b"".join(root.certificate.public_bytes(Encoding.PEM) for root in roots))
    (folder / pem.KEY).touch(0o600)
    (folder / pem.KEY).write_bytes(documents[pem.KEY])


async def test_an_authority_of_ones_own_is_rotated_by_three_changes(tmp_path: Path) -> None:
    """Each is taken up without a restart, and not before nobody is cut off by it."""
    folder = tmp_path / "ca"
    bring(folder, OLD, OLD)
    custodian = await started(folder)
    holders = [holder("a.b", STEADY, OLD)]
    custodian.holders = lambda: holders

    async def roots() -> tuple[Authority, str]:
        await custodian.look()
        return custodian.trust.authority, custodian.report().problem

    with pytest.raises(RotationError, match=r"was brought along .* is yours to replace"):
        await custodian.rotate(Step.DISTRIBUTE)
    bring(folder, NEW, NEW)
    assert (await roots())[0].roots == (OLD.certificate,)
    assert "one that nobody trusts yet" in (await roots())[1]
    bring(folder, OLD, OLD, NEW)
    both, problem = await roots()
    assert (both.roots, problem) == ((OLD.certificate, NEW.certificate), "")
    bring(folder, NEW, OLD, NEW)
    assert "not trusted yet by a.b" in (await roots())[1]
    holders = [holder("a.b", DISTRIBUTED, OLD)]
    assert (await roots())[0].certificate == NEW.certificate
    bring(folder, NEW, NEW)
    assert "a root is gone of which a.b show certificates" in (await roots())[1]
    holders = [holder("a.b", SIGNING, NEW)]
    assert ((await roots())[0].roots, (await roots())[1]) == ((NEW.certificate,), "")


def test_a_root_that_is_trusted_only_now_waits_for_pods_that_start() -> None:
    before, after = (own.authority("cluster.local") for own in (DISTRIBUTED, SIGNING))
    assert too_early(before, after, [], settled=False).startswith("the roots in force are so new")
    assert too_early(before, after, [], settled=True) == ""


async def test_an_authority_that_ends_soon_is_spoken_of_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And shown as a metric all the time."""
    times = [NOW]
    custodian = await started(tmp_path / "ca", lambda: times[-1])
    ends = custodian.trust.authority.certificate.not_valid_after_utc
    for moment, lines in (
        (ends - timedelta(days=31), 0),
        (ends - timedelta(days=29), 1),
        (ends - timedelta(days=28, hours=1), 1),
        (ends - timedelta(days=28), 2),
    ):
        times.append(moment)
        await custodian.look()
        assert caplog.text.count("and no certificate outlives it") == lines
    metrics = {sample.name: sample.value for metric in custodian.metrics.collect() for sample in metric.samples}
    assert metrics["citadel_server_cert_chain_expiry_timestamp"] == ends.timestamp()
    assert metrics["citadel_server_root_cert_expiry_timestamp"] == ends.timestamp()
