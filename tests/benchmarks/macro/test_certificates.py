"""Certificates of a run."""

import ssl
import subprocess
from pathlib import Path

import pytest

from benchmarks.macro import certificates


@pytest.mark.parametrize(("name", "subject"), [
    ("edge", "IP Address:127.0.0.1"),
    ("client", "URI:spiffe://cluster.local/ns/default/sa/client"),
    ("server", "URI:spiffe://cluster.local/ns/default/sa/server"),
])  # fmt: skip
def test_openssl_believes_them_for_what_they_are(tmp_path: Path, name: str, subject: str) -> None:
    certificates.write(tmp_path / "made")
    chain = tmp_path / "made" / f"{name}.pem"
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "made" / "root.pem"), str(chain)]
    shown = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(chain)]
    assert subprocess.run(verify, capture_output=True, text=True).stdout.endswith("OK\n")
    assert subject in subprocess.run(shown, capture_output=True, text=True).stdout
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, chain.with_suffix(".key"))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain.with_suffix(".both.pem"))
