"""What citadel signs, and what it refuses to."""

import base64
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from pymesh.identity import Identity
from pymesh_controlplane.citadel.authority import (
    CLOCK_SKEW,
    LEAF_LIFETIME,
    MAX_CSR_BYTES,
    ROOT_LIFETIME,
    CsrError,
    self_signed,
    weakness,
)
from tests.controlplane.citadel.support import REVIEWS, csr_for, new_key

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
AUTHORITY = self_signed("cluster.local", now=NOW)


def leaf_of(chain: tuple[str, ...]) -> x509.Certificate:
    """The first certificate of a chain."""
    return x509.load_pem_x509_certificate(chain[0].encode())


def point_of(csr: x509.CertificateSigningRequest) -> bytes:
    """The public key as it stands in a CSR's bytes."""
    return csr.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def test_a_leaf_is_an_x509_svid() -> None:
    """X509-SVID: one URI SAN, critical since the subject is empty; no CA; digitalSignature; client and server."""
    key = new_key()
    issued = AUTHORITY.issue_workload(csr_for(key), REVIEWS, now=NOW)
    leaf = leaf_of(issued.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/reviews")]
    assert names.critical
    assert not list(leaf.subject)
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value.ca, constraints.critical) == (False, True)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.crl_sign) == (True, False, False)
    assert usage.critical
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert leaf.public_key() == key.public_key()
    assert leaf.serial_number == issued.serial
    leaf.verify_directly_issued_by(AUTHORITY.certificate)


def test_a_leaf_lives_a_day_and_began_a_little_ago() -> None:
    """So that a peer whose clock is behind takes it."""
    leaf = leaf_of(AUTHORITY.issue_workload(csr_for(new_key()), REVIEWS, now=NOW).chain)
    assert leaf.not_valid_before_utc == NOW - CLOCK_SKEW
    assert leaf.not_valid_after_utc == NOW + LEAF_LIFETIME == NOW + timedelta(hours=24)


def test_openssl_takes_the_chain(tmp_path: Path) -> None:
    """The verdict of an implementation that is not ours, with its strict rules on."""
    authority = self_signed("cluster.local", now=datetime.now(UTC))
    issued = authority.issue_workload(csr_for(new_key()), REVIEWS, now=datetime.now(UTC))
    (tmp_path / "root.pem").write_text(issued.chain[-1])
    (tmp_path / "leaf.pem").write_text(issued.chain[0])
    for purpose in ("sslclient", "sslserver"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem", "leaf.pem"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == "leaf.pem: OK\n", done.stderr


def test_the_root_lives_ten_years_on_p256() -> None:
    """And may sign certificates, nothing else."""
    root = AUTHORITY.certificate
    assert root.not_valid_after_utc == NOW + ROOT_LIFETIME
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_leaf_does_not_outlive_its_authority() -> None:
    """A chain ends with its shortest link; an authority that has ended signs nothing."""
    last_hour = NOW + ROOT_LIFETIME - timedelta(hours=1)
    issued = AUTHORITY.issue_workload(csr_for(new_key()), REVIEWS, now=last_hour)
    assert issued.expires == NOW + ROOT_LIFETIME
    with pytest.raises(CsrError, match="authority expired"):
        AUTHORITY.issue_workload(csr_for(new_key()), REVIEWS, now=NOW + ROOT_LIFETIME)


@pytest.mark.parametrize(
    "asked", [timedelta(seconds=1), timedelta(hours=1), LEAF_LIFETIME, timedelta(days=90), timedelta(days=91)]
)
def test_a_shorter_life_may_be_asked_for_and_a_longer_one_is_not_granted(asked: timedelta) -> None:
    """Nothing revokes a certificate: whoever asks for ninety days gets one."""
    issued = AUTHORITY.issue_workload(csr_for(new_key()), REVIEWS, now=NOW, lifetime=asked)
    assert issued.expires == NOW + min(asked, timedelta(days=90))


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1)])
def test_a_life_that_is_none_is_refused(lifetime: timedelta) -> None:
    """With what may be asked for in the sentence."""
    with pytest.raises(CsrError, match=r"is none: ask for 1 s at least"):
        AUTHORITY.issue_workload(csr_for(new_key()), REVIEWS, now=NOW, lifetime=lifetime)


def test_a_csr_may_ask_for_what_was_proved() -> None:
    """As Istio's agent does."""
    csr = csr_for(new_key(), x509.UniformResourceIdentifier(str(REVIEWS)))
    assert leaf_of(AUTHORITY.issue_workload(csr, REVIEWS, now=NOW).chain)


@pytest.mark.parametrize(
    "uris",
    [
        ["spiffe://cluster.local/ns/default/sa/admin"],
        [str(REVIEWS), "spiffe://cluster.local/ns/default/sa/admin"],
        ["spiffe://other.domain/ns/default/sa/reviews"],
        ["https://example.com"],
    ],
)
def test_a_csr_that_asks_for_somebody_else_is_refused(uris: list[str]) -> None:
    """Also where the right identity stands beside the wrong one."""
    csr = csr_for(new_key(), *(x509.UniformResourceIdentifier(uri) for uri in uris))
    with pytest.raises(CsrError, match=f"and the caller has proved to be {REVIEWS}"):
        AUTHORITY.issue_workload(csr, REVIEWS, now=NOW)


def test_other_names_of_a_csr_go_nowhere() -> None:
    """Neither DNS names nor a subject are taken over."""
    csr = csr_for(new_key(), x509.DNSName("bank.example"), x509.RFC822Name("root@bank.example"))
    names = leaf_of(AUTHORITY.issue_workload(csr, REVIEWS, now=NOW).chain).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert len(list(names.value)) == 1


def test_an_identity_of_another_trust_domain_is_refused() -> None:
    """Whoever proved it: this authority speaks for its own."""
    with pytest.raises(CsrError, match=r"trust domain, cluster\.local"):
        AUTHORITY.issue_workload(csr_for(new_key()), Identity("evil", "default", "reviews"), now=NOW)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (rsa.generate_private_key(65537, 1024), "1024 bits is out of bounds"),  # noqa: S505  weak on purpose
        (ec.generate_private_key(ec.SECP192R1()), "secp192r1 is not supported"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1 is not supported"),
        (dsa.generate_private_key(2048), "this kind of key is not supported"),
    ],
    ids=["rsa-1024", "p-192", "secp256k1", "dsa"],
)
def test_weak_and_odd_keys_are_refused(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, sentence: str) -> None:
    """With the reason."""
    with pytest.raises(CsrError, match=sentence):
        AUTHORITY.issue_workload(csr_for(key), REVIEWS, now=NOW)


def test_rsa_is_taken_from_2048_bits_on() -> None:
    """A pod's proxy may be somebody else's."""
    assert AUTHORITY.issue_workload(csr_for(rsa.generate_private_key(65537, 2048)), REVIEWS, now=NOW)
    assert weakness(ed25519.Ed25519PrivateKey.generate().public_key())


def test_a_csr_signed_by_another_key_is_refused() -> None:
    """Otherwise one could have a key certified that one does not hold."""
    der = bytearray(x509.load_pem_x509_csr(csr_for(new_key())).public_bytes(Encoding.DER))
    ours = x509.load_pem_x509_csr(csr_for(new_key()))
    theirs = x509.load_der_x509_csr(bytes(der))
    forged = bytes(der).replace(point_of(theirs), point_of(ours))
    assert forged != bytes(der)
    with pytest.raises(CsrError, match="not signed by the key it carries"):
        AUTHORITY.issue_workload(x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM), REVIEWS, now=NOW)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"hello",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        b"\xff\x00" * 50,
    ],
)
def test_garbage_is_refused(pem: bytes) -> None:
    """And never anything but refused."""
    with pytest.raises(CsrError, match="cannot be read"):
        AUTHORITY.issue_workload(pem, REVIEWS, now=NOW)


def test_a_damaged_csr_is_refused_wherever_the_damage_is() -> None:
    """Flip a bit of each byte in turn. What the signature covers is refused; the rest at least raises nothing else."""
    csr = x509.load_pem_x509_csr(csr_for(new_key(), x509.UniformResourceIdentifier(str(REVIEWS))))
    der, signed = csr.public_bytes(Encoding.DER), csr.tbs_certrequest_bytes
    start = der.index(signed)
    accepted = []
    for at in range(len(der)):
        damaged = base64.encodebytes(der[:at] + bytes([der[at] ^ 0x01]) + der[at + 1 :])
        pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + damaged + b"-----END CERTIFICATE REQUEST-----\n"
        with suppress(CsrError):
            AUTHORITY.issue_workload(pem, REVIEWS, now=NOW)
            accepted.append(at)
    assert not [at for at in accepted if start <= at < start + len(signed)]


def test_a_giant_csr_is_refused_unread() -> None:
    """By its length alone."""
    with pytest.raises(CsrError, match="more than 16384"):
        AUTHORITY.issue_workload(b"x" * (MAX_CSR_BYTES + 1), REVIEWS, now=NOW)


def test_a_server_certificate_bears_dns_names() -> None:
    """And its key fits."""
    issued, key = AUTHORITY.issue_server(("pilot", "pilot.pymesh-system.svc"), now=NOW)
    names = leaf_of(issued.chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pilot", "pilot.pymesh-system.svc"]
    assert key.startswith("-----BEGIN PRIVATE KEY-----")


def test_the_key_is_in_no_repr() -> None:
    """What a log line might show."""
    assert "key" not in repr(AUTHORITY).replace("EllipticCurvePublicKey", "")
