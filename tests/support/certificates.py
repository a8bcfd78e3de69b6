"""A certificate authority for tests: as citadel signs, but with any name, life and flaw a test wants."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = 3600.0
_USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate chain (leaf first, without the root) and the leaf's key, PEM."""

    chain: bytes
    key: bytes


class Authority:
    """A root of trust, ECDSA P-256. `root` is its certificate, PEM."""

    def __init__(self, name: str = "test root", *, parent: "Authority | None" = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(parent._name if parent else self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self._certificate = builder.sign(parent._key if parent else self._key, hashes.SHA256())
        self.parent = parent

    @property
    def root(self) -> bytes:
        """The root above, PEM."""
        return self.parent.root if self.parent else self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *,
        uri: str = "",
        dns: tuple[str, ...] = (),
        ips: tuple[str, ...] = (),
        common_name: str = "",
        organizations: tuple[str, ...] = (),
        begins: float = -60.0,
        lasts: float = HOUR,
    ) -> Issued:
        """A certificate for a new key. `begins` is seconds from now, `lasts` seconds from there."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else []
        names += [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ip_address(ip)) for ip in ips]
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
        subject += [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        return Issued(self._chain(key.public_key(), names, begins, lasts, subject), private)

    def sign(self, csr: str | bytes, *, uri: str | None = None, begins: float = -60.0, lasts: float = HOUR) -> bytes:
        """The chain for a request (PEM), with the names it asks for, or `uri` instead."""
        request = x509.load_pem_x509_csr(csr.encode() if isinstance(csr, str) else csr)
        asked = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = list(asked) if uri is None else [x509.UniformResourceIdentifier(uri)]
        public = request.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return self._chain(public, names, begins, lasts)

    def _chain(
        self,
        key: CertificateIssuerPublicKeyTypes,
        names: list[x509.GeneralName],
        begins: float,
        lasts: float,
        subject: Sequence[x509.NameAttribute] = (),
    ) -> bytes:
        begin = datetime.now(UTC) + timedelta(seconds=begins)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(seconds=lasts))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            leaf = leaf.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
        signed = leaf.sign(self._key, hashes.SHA256())
        above = [self._certificate] if self.parent else []
        return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in [signed, *above])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
