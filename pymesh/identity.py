"""SPIFFE identities: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

Source: the SPIFFE ID specification, section 2; the path's shape is Istio's.
"""

import re
from dataclasses import dataclass

# A trust domain and a path segment as SPIFFE ID 2.1 and 2.2 allow them; Kubernetes names are a subset.
_ID = re.compile(r"spiffe://([a-z0-9._-]{1,255})/ns/([A-Za-z0-9._-]+)/sa/([A-Za-z0-9._-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a workload is."""

    trust_domain: str
    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @classmethod
    def parse(cls, uri: str) -> "Identity":
        """The identity behind a SPIFFE URI.

        Raises:
            ValueError: `uri` is not a SPIFFE ID of this shape.
        """
        match = _ID.fullmatch(uri)
        if match is None or match[2] in {".", ".."} or match[3] in {".", ".."}:
            raise ValueError(f"{uri!r} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<account>")
        return cls(match[1], match[2], match[3])
