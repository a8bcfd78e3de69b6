"""The certificate authority: which certificates are made, for whom, and what is refused. No file and no clock here.

A workload's certificate is an X.509-SVID: exactly one URI SAN, the SPIFFE ID that the caller *proved*. What a CSR asks
for is never believed; a CSR gives a public key and shows that the caller holds its private half, nothing else.
Sources: SPIFFE X509-SVID (section 2: SAN, 4: constraints and usage), RFC 5280.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pymesh.errors import MeshError
from pymesh.identity import Identity

ROOT_LIFETIME: Final = timedelta(days=3650)
# The life of a leaf that asks for none, as every sidecar of ours; Istio's value. Nothing revokes a leaf, so an account
# that is deleted stays as long.
LEAF_LIFETIME: Final = timedelta(hours=24)
# The longest that is granted to who asks for more; Istio's value.
MAX_LEAF_LIFETIME: Final = timedelta(days=90)
# A peer whose clock is behind ours by this much still takes a certificate made now; Istio's value.
CLOCK_SKEW: Final = timedelta(minutes=2)
# Bytes. A P-256 CSR is about 500, an RSA-8192 one about 3,000.
MAX_CSR_BYTES: Final = 16 * 1024
# Bits. NIST SP 800-57 calls less weak; more would only cost every peer time at every handshake.
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

# What cryptography raises for damaged input, beside ValueError.
_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
LeafKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class CsrError(MeshError):
    """A certificate signing request that is refused; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made.

    Attributes:
        chain: PEM, one certificate each: the leaf first, then what leads from it up to the root, the root last.
        expires: when the leaf ends, with time zone.
    """

    chain: tuple[str, ...]
    serial: int
    expires: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """The signing certificate and its key.

    Attributes:
        certificate: what signs the leaves; where the root itself signs, the root.
        intermediates: from `certificate` upwards, without the root; empty where the root itself signs.
        roots: what the mesh trusts; the first is the one that `certificate` leads to.
    """

    trust_domain: str
    certificate: x509.Certificate
    key: CaKey = field(repr=False, compare=False)  # it is the certificate's; keys of equal content are not equal
    intermediates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @property
    def root_pem(self) -> str:
        """Everything the mesh trusts, PEM."""
        return "".join(_pem(root) for root in self.roots)

    def issue_workload(
        self, csr: bytes, identity: Identity, *, now: datetime, lifetime: timedelta = LEAF_LIFETIME
    ) -> Issued:
        """A certificate for `identity`, which the caller has proved, over the key of `csr` (PEM).

        Its life is `lifetime`, or MAX_LEAF_LIFETIME if that is less.

        Raises:
            CsrError: the CSR is damaged, asks for another identity or holds a weak key, or `lifetime` is not positive.
        """
        if identity.trust_domain != self.trust_domain:
            raise CsrError(f"{identity} is not of this mesh's trust domain, {self.trust_domain}")
        if lifetime <= timedelta(0):
            raise CsrError(f"a lifetime of {lifetime.total_seconds():.0f} s is none: ask for 1 s at least")
        key = _key_of(csr, identity)
        return self._sign(
            key,
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))]),
            now,
            min(lifetime, MAX_LEAF_LIFETIME),
        )

    def issue_server(
        self, names: tuple[str, ...], *, now: datetime, lifetime: timedelta = LEAF_LIFETIME
    ) -> tuple[Issued, str]:
        """A certificate for a server of the control plane under the DNS `names`, and its new private key (PEM).

        Raises:
            CsrError: the authority's own certificate has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        return self._sign(key.public_key(), subject, now, lifetime), private_pem(key).decode()

    def _sign(self, key: LeafKey, names: x509.SubjectAlternativeName, now: datetime, lifetime: timedelta) -> Issued:
        chain = (*self.intermediates, self.roots[0])
        ends = min(certificate.not_valid_after_utc for certificate in chain)
        if ends <= now:
            raise CsrError(f"the mesh's own certificate authority expired at {ends:%Y-%m-%d %H:%M} UTC: replace it")
        serial = x509.random_serial_number()
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(min(now + lifetime, ends))
            .add_extension(names, critical=True)  # RFC 5280 section 4.2.1.6: critical where the subject is empty
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_key_identifier(self.certificate), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Issued(tuple(_pem(certificate) for certificate in (leaf, *chain)), serial, leaf.not_valid_after_utc)


def self_signed(trust_domain: str, *, now: datetime) -> Authority:
    """A new authority: one ECDSA P-256 root that signs the leaves itself, good for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),  # RFC 5280: ub-organization-name is 64
            x509.NameAttribute(NameOID.COMMON_NAME, "pymesh root CA"),
        ]
    )
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(trust_domain, root, key, (), (root,))


def weakness(key: object) -> str:
    """Why `key`, a public key, is not good enough to sign or be signed; empty if it is."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            return ""
        return f"the curve {key.curve.name} is not supported: use P-256, P-384 or P-521"
    if isinstance(key, rsa.RSAPublicKey):
        if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return ""
        return f"an RSA key of {key.key_size} bits is out of bounds: use {MIN_RSA_BITS} to {MAX_RSA_BITS}"
    return "this kind of key is not supported: use ECDSA P-256"


def private_pem(key: CaKey) -> bytes:
    """`key` as PEM (PKCS #8), not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_of(pem: bytes, identity: Identity) -> LeafKey:
    """The public key of a CSR that is well-formed, signed by that key, and asks for nothing but `identity`."""
    if len(pem) > MAX_CSR_BYTES:
        raise CsrError(f"the CSR has {len(pem)} bytes, more than {MAX_CSR_BYTES}")
    try:
        csr = x509.load_pem_x509_csr(pem)
        key = csr.public_key()
        problem = weakness(key)
        # The signature is checked after the key's size, so that nobody can make us compute with a giant one.
        signed = not problem and csr.is_signature_valid
        asked = _uris(csr)
    except _UNREADABLE as error:
        raise CsrError(f"the CSR cannot be read: {error}") from error
    if problem:
        raise CsrError(problem)
    if not signed:
        raise CsrError("the CSR is not signed by the key it carries")
    for uri in asked:
        if uri != str(identity):
            raise CsrError(f"the CSR asks for {uri[:300]}, and the caller has proved to be {identity}")
    if not isinstance(key, LeafKey):  # what `weakness` has said in words, said to the type checker
        raise CsrError("this kind of key is not supported")
    return key


def _uris(csr: x509.CertificateSigningRequest) -> list[str]:
    """The URI SANs a CSR asks for. Its other names, and its subject, are ignored: no certificate carries them."""
    try:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(_public(issuer))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _public(certificate: x509.Certificate) -> LeafKey:
    key = certificate.public_key()
    if not isinstance(key, LeafKey):
        raise CsrError("the signing certificate's kind of key is not supported")
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
