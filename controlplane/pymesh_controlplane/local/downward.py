"""The downward API: what a pod may learn about itself, by field path. Pure.

Source: Kubernetes, "Downward API", available fields.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pymesh.errors import ConfigError

_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What is known of a pod before its containers start."""

    name: str
    namespace: str
    uid: str
    service_account: str
    ip: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def field(facts: PodFacts, path: str) -> str:
    """The value behind a `fieldPath`.

    Raises:
        ConfigError: there is no such field here.
    """
    plain = {
        "metadata.name": facts.name,
        "metadata.namespace": facts.namespace,
        "metadata.uid": facts.uid,
        "spec.serviceAccountName": facts.service_account,
        "spec.nodeName": "localhost",
        "status.podIP": facts.ip,
        "status.podIPs": facts.ip,
        # Seen from a pod, the machine is the gateway.
        "status.hostIP": "10.244.0.1",
    }
    if path in plain:
        return plain[path]
    if path == "metadata.labels":
        return listing(facts.labels)
    if path == "metadata.annotations":
        return listing(facts.annotations)
    if match := _SUBSCRIPT.fullmatch(path):
        return (facts.labels if match[1] == "labels" else facts.annotations).get(match[2], "")
    known = ", ".join((*plain, "metadata.labels", "metadata.annotations", "metadata.labels['<name>']"))
    raise ConfigError(f"{path} is not a field that a pod can ask for; there are {known}")


def listing(values: Mapping[str, str]) -> str:
    """Labels or annotations as the kubelet writes them to a file: sorted lines of `name="value"`, Go-quoted."""
    return "\n".join(f"{name}={quoted(values[name])}" for name in sorted(values))


def quoted(text: str) -> str:
    """`text` in double quotes with Go's escapes (strconv.Quote), for the characters that occur in practice."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'
