"""The authority's files: made once, read again, refused untouched when something is wrong with them."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pymesh.errors import ConfigError
from pymesh_controlplane.citadel import pem, store
from pymesh_controlplane.citadel.authority import ROOT_LIFETIME, Authority, self_signed
from tests.controlplane.citadel.support import REVIEWS, csr_for, key_pem, new_key

NOW = datetime.now(UTC).replace(microsecond=0)


def load(folder: Path, now: datetime = NOW) -> Authority:
    """The authority in `folder`."""
    return store.load_or_create(folder, "cluster.local", now=now)


def content(folder: Path) -> dict[str, bytes]:
    """Every file in `folder`."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(path: Path, *certificates: x509.Certificate) -> None:
    """PEM."""
    path.write_bytes(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates))


def signed_by(
    parent: x509.Certificate, parent_key: ec.EllipticCurvePrivateKey, name: str, **changes: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """An intermediate CA."""
    key = new_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(changes.get("starts", NOW - timedelta(hours=1)))
        .not_valid_after(changes.get("ends", NOW + timedelta(days=365)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .sign(parent_key, hashes.SHA256())
    )
    return certificate, key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of citadel's that is not there yet."""
    return tmp_path / "citadel"


@pytest.fixture
def plugged(tmp_path: Path) -> Path:
    """A folder with root, intermediate and signing CA of a company's own."""
    folder = tmp_path / "cacerts"
    folder.mkdir(mode=0o700)
    root = self_signed("corp.example", now=NOW)
    assert isinstance(root.key, ec.EllipticCurvePrivateKey)
    middle, middle_key = signed_by(root.certificate, root.key, "middle")
    signing, signing_key = signed_by(middle, middle_key, "signing")
    write(folder / "root-cert.pem", root.certificate)
    write(folder / "cert-chain.pem", signing, middle, root.certificate)
    write(folder / "ca-cert.pem", signing)
    (folder / "ca-key.pem").write_bytes(key_pem(signing_key))
    (folder / "ca-key.pem").chmod(0o600)
    return folder


def test_a_root_is_made_where_there_is_none_and_kept(folder: Path) -> None:
    """Folder 0700, file 0600; the second start finds the same."""
    first = load(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["self-signed-ca.pem"]
    assert (folder / "self-signed-ca.pem").stat().st_mode & 0o777 == 0o600
    before = content(folder)
    second = load(folder)
    assert second.certificate == first.certificate
    assert content(folder) == before
    issued = second.issue_workload(csr_for(new_key()), REVIEWS, now=NOW)
    assert issued.chain[1:] == (first.root_pem,)


def test_two_starts_at_once_agree_on_one_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second, after looking and before writing, takes what the first wrote."""
    make = pem.self_signed

    def slowly(trust_domain: str, *, now: datetime) -> Authority:
        monkeypatch.setattr(pem, "self_signed", make)
        winners.append(load(folder))
        return make(trust_domain, now=now)

    winners: list[Authority] = []
    monkeypatch.setattr(pem, "self_signed", slowly)
    assert load(folder).certificate == winners[0].certificate
    assert [path.name for path in folder.iterdir()] == ["self-signed-ca.pem"]


def test_an_authority_of_ones_own_is_used(plugged: Path) -> None:
    """The chain leads from the leaf over both intermediates to the root, root last."""
    authority = load(plugged)
    chain = [
        x509.load_pem_x509_certificate(pem.encode())
        for pem in authority.issue_workload(csr_for(new_key()), REVIEWS, now=NOW).chain
    ]
    assert len(chain) == 4
    for below, above in pairwise(chain):
        below.verify_directly_issued_by(above)
    assert chain[-1] == authority.roots[0]
    assert "self-signed-ca.pem" not in content(plugged)


def test_without_intermediates_no_chain_file_is_needed(plugged: Path) -> None:
    """A root of one's own may sign by itself: ca-cert.pem and root-cert.pem are then the same."""
    own = self_signed("corp.example", now=NOW)
    assert isinstance(own.key, ec.EllipticCurvePrivateKey)
    write(plugged / "root-cert.pem", own.certificate)
    write(plugged / "ca-cert.pem", own.certificate)
    (plugged / "ca-key.pem").write_bytes(key_pem(own.key))
    (plugged / "cert-chain.pem").unlink()
    assert len(load(plugged).issue_workload(csr_for(new_key()), REVIEWS, now=NOW).chain) == 2


def test_a_second_root_is_trusted_but_not_in_the_chain(plugged: Path) -> None:
    """As during a rotation; the order in the file does not matter."""
    next_root = self_signed("corp.example", now=NOW).certificate
    (own,) = x509.load_pem_x509_certificates((plugged / "root-cert.pem").read_bytes())
    write(plugged / "root-cert.pem", next_root, own)
    authority = load(plugged)
    assert authority.roots == (own, next_root)
    assert authority.root_pem.count("BEGIN CERTIFICATE") == 2


def refused(folder: Path, now: datetime = NOW) -> str:
    """The sentence with which `folder` is refused; nothing in it may change."""
    before = content(folder)
    with pytest.raises(ConfigError) as caught:
        load(folder, now)
    assert content(folder) == before
    assert "PRIVATE" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\0" * 100])
def test_a_corrupt_own_file_is_refused_and_kept(folder: Path, damage: bytes) -> None:
    """A new root in its place would make every certificate of the mesh worthless."""
    load(folder)
    path = folder / "self-signed-ca.pem"
    path.write_bytes(damage)
    assert (
        refused(folder)
        == f"{path}: holds no private key that can be read (PEM, not encrypted): restore it from a backup"
    )


def test_a_cut_own_file_is_refused(folder: Path) -> None:
    """At every line."""
    load(folder)
    path = folder / "self-signed-ca.pem"
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):
        path.write_bytes(b"".join(lines[:kept]))
        assert "restore it from a backup" in refused(folder)


def test_a_flipped_bit_in_the_root_is_noticed(folder: Path) -> None:
    """Its own signature no longer fits."""
    load(folder)
    path = folder / "self-signed-ca.pem"
    key, begin, body = path.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    der = bytearray(x509.load_pem_x509_certificate(begin + body).public_bytes(Encoding.DER))
    der[der.index(b"pymesh root CA")] ^= 1
    damaged = x509.load_der_x509_certificate(bytes(der)).public_bytes(Encoding.PEM)
    path.write_bytes(key + damaged)
    assert "was not issued by itself" in refused(folder)


@pytest.mark.parametrize("name", ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"])
def test_a_corrupt_plugged_file_is_named(plugged: Path, name: str) -> None:
    """Each of the four."""
    (plugged / name).write_bytes(b"garbage")
    sentence = refused(plugged)
    assert sentence.startswith(f"{plugged / name}: holds no ")
    assert "restore it from a backup" in sentence


@pytest.mark.parametrize("name", ["ca-cert.pem", "ca-key.pem", "root-cert.pem"])
def test_a_missing_plugged_file_is_named(plugged: Path, name: str) -> None:
    """And no root is made in its place."""
    (plugged / name).unlink()
    assert refused(plugged).startswith(f"{plugged / name}: is missing, while ")


def test_missing_intermediates_are_asked_for(plugged: Path) -> None:
    """Without them nobody could verify a leaf."""
    (plugged / "cert-chain.pem").unlink()
    assert "missing intermediates into cert-chain.pem" in refused(plugged)


def test_a_key_that_does_not_fit_is_refused(plugged: Path) -> None:
    """It would sign what nobody can verify."""
    (plugged / "ca-key.pem").write_bytes(key_pem(new_key()))
    assert "do not belong together" in refused(plugged)


def test_a_certificate_that_is_no_ca_is_refused(folder: Path, plugged: Path) -> None:
    """A leaf in ca-cert.pem."""
    key = new_key()
    leaf = load(folder).issue_workload(csr_for(key), REVIEWS, now=NOW).chain[0]
    (plugged / "ca-cert.pem").write_text(leaf)
    (plugged / "ca-key.pem").write_bytes(key_pem(key))
    assert "it needs CA:TRUE and keyCertSign" in refused(plugged)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_may_read_is_refused(folder: Path, plugged: Path, mode: int) -> None:
    """Ours and a plugged one."""
    load(folder)
    (folder / "self-signed-ca.pem").chmod(mode)
    assert f"other users may read (mode {mode:04o}): chmod 600 it" in refused(folder)
    (plugged / "ca-key.pem").chmod(mode)
    assert "chmod 600 it" in refused(plugged)


def test_an_open_folder_is_refused(folder: Path) -> None:
    """Others could put their own root there."""
    folder.mkdir()
    folder.chmod(0o755)
    assert refused(folder) == f"{folder}: is open to other users (mode 0755): chmod 700 it"


def test_dates_are_checked(folder: Path, plugged: Path) -> None:
    """Expired, and not valid yet, which usually means a wrong clock."""
    load(folder)
    assert "expired:" in refused(folder, NOW + ROOT_LIFETIME)
    assert "is this machine's clock right?" in refused(folder, NOW - timedelta(days=1))
    assert refused(plugged, NOW + timedelta(days=366)).startswith(f"{plugged / 'ca-cert.pem'}: expired:")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """Its parent is missing, or a file."""
    with pytest.raises(ConfigError, match="No such file or directory"):
        load(tmp_path / "missing" / "citadel")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used as citadel's folder: "):
        load(tmp_path / "file")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB without a free byte."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=0700", "tmpfs", str(place)], check=True)
    try:
        with pytest.raises(OSError, match="No space left"):
            (place / "ballast").write_bytes(b"x" * 32 * 1024)
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(full_disk: Path) -> None:
    """And once there is room, all is as if nothing had happened."""
    with pytest.raises(ConfigError, match=r"self-signed-ca\.pem: cannot be written: No space left on device"):
        load(full_disk)
    assert [path.name for path in full_disk.iterdir()] == ["ballast"]
    (full_disk / "ballast").unlink()
    assert load(full_disk).certificate == load(full_disk).certificate
