"""Certificates of the API server and of its clients, and what a client certificate says of its owner."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.support.certificates import Authority
from tests.support.kubernetes.requests import User

# As kubeadm names it; 10.96.0.1 is the address of Service default/kubernetes.
_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
          "kubernetes.default.svc.cluster.local")  # fmt: skip
_ADDRESSES = ("127.0.0.1", "10.96.0.1")


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files in a folder: what `ssl` reads."""

    certificate: Path
    key: Path
    authority: Path


def serving(authority: Authority, folder: Path, addresses: tuple[str, ...] = ()) -> Files:
    """A server certificate for the names and addresses of an API server."""
    issued = authority.issue(dns=_NAMES, ips=(*_ADDRESSES, *addresses), lasts=86_400)
    files = Files(folder / "apiserver.crt", folder / "apiserver.key", folder / "ca.crt")
    files.certificate.write_bytes(issued.chain)
    files.key.touch(mode=0o600)
    files.key.write_bytes(issued.key)
    files.authority.write_bytes(authority.root)
    return files


def context(files: Files) -> ssl.SSLContext:
    """TLS of the API server: a client may show a certificate, and it has to be one of ours."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(files.certificate, files.key)
    made.load_verify_locations(files.authority)
    made.verify_mode = ssl.CERT_OPTIONAL
    return made


def owner(certificate: bytes) -> User:
    """Common name and organizations of a client certificate (DER): user and groups."""
    subject = x509.load_der_x509_certificate(certificate).subject
    name = next((str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)), "")
    groups = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return User(name, (*groups, "system:authenticated"))
