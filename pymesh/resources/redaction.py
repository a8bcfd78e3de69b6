"""What may be seen of a Secret. Pure.

Everything that shows documents to people, or names them by a digest, goes through here: terminals, debug pages, logs.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

# Certificates are public; so that it can be seen that one has changed, a digest stands for it. Of anything else a
# digest would let a short password be guessed.
_PUBLIC: Final = frozenset({"tls.crt", "ca.crt", "cert", "cacert"})
# What kubectl keeps there repeats the document.
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def redacted(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """`document` as people and programs may see it: of a Secret its keys, and how long each value is."""
    if document.get("kind") != "Secret":
        return document
    found = dict(document)
    for field in ("data", "stringData"):
        if isinstance(values := document.get(field), Mapping):
            found[field] = {key: _instead_of(str(key), str(value)) for key, value in values.items()}
        elif values is not None:
            found[field] = "<not shown>"
    annotations = document.get("metadata", {}).get("annotations")
    if isinstance(annotations, Mapping):
        kept = {key: value for key, value in annotations.items() if key != _LAST_APPLIED}
        found["metadata"] = {**document["metadata"], "annotations": kept}
    return found


def _instead_of(key: str, value: str) -> str:
    digest = f", sha256 {sha256(value.encode()).hexdigest()[:16]}" if key in _PUBLIC else ""
    return f"<{len(value)} characters{digest}>"
