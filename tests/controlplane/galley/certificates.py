"""Secrets with certificates, as manifests."""

import base64

from tests.support.certificates import Authority, Issued


def secret(
    name: str = "web", values: dict[str, bytes] | None = None, *, namespace: str = "pymesh-system", kind: str = "Opaque"
) -> str:
    """A Secret."""
    listed = ", ".join(f"{key}: {base64.b64encode(value).decode()}" for key, value in (values or {}).items())
    return f"""
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
type: {kind}
data: {{{listed}}}
"""


def tls_secret(issued: Issued, name: str = "web", roots: bytes = b"") -> str:
    """A Secret of type kubernetes.io/tls."""
    values = {"tls.crt": issued.chain, "tls.key": issued.key}
    return secret(name, values | ({"ca.crt": roots} if roots else {}), kind="kubernetes.io/tls")


AUTHORITY = Authority()
WEB = AUTHORITY.issue(dns=("www.example.com",), lasts=60 * 24 * 3600.0)
OTHER = AUTHORITY.issue(dns=("www.example.com",))
