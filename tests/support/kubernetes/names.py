"""What objects, labels and keys may be called: DNS-1123, DNS-1035 and qualified names (apimachinery validation)."""

import re
from collections.abc import Iterator

from tests.support.kubernetes.errors import Object, cause, required
from tests.support.kubernetes.kinds import Kind

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_KEY = re.compile(r"[-._a-zA-Z0-9]+")

_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
# RBAC's names may be anything that can be a segment of a path.
_FREE_NAMES = {"roles", "rolebindings", "clusterroles", "clusterrolebindings"}


def wrong_name(name: str, kind: Kind, field: str = "metadata.name") -> Iterator[Object]:
    """What is wrong with the name of an object of this kind."""
    if not name:
        yield required(field, "name or generateName is required")
    elif kind.plural in _FREE_NAMES and kind.group == "rbac.authorization.k8s.io":
        if name in (".", "..") or "/" in name or "%" in name:
            yield cause(field, f"Invalid value: \"{name}\": may not contain '/' or '%'")
    elif kind.storage in (("", "services"), ("", "namespaces")):
        if not _LABEL.fullmatch(name) or len(name) > 63:
            yield cause(field, f'Invalid value: "{name}": {_LABEL_RULE}')
    elif not _SUBDOMAIN.fullmatch(name) or len(name) > 253:
        yield cause(field, f'Invalid value: "{name}": {_SUBDOMAIN_RULE}')


def dns_1035(name: str, field: str) -> Iterator[Object]:
    """What is wrong with a name that has to be a DNS-1035 label."""
    if not _LABEL_1035.fullmatch(name) or len(name) > 63:
        yield cause(field, f'Invalid value: "{name}": {_LABEL_1035_RULE}')


def wrong_labels(labels: dict[str, str], field: str) -> Iterator[Object]:
    """What is wrong with labels: keys and values."""
    for key, value in labels.items():
        yield from wrong_key(key, field)
        if value and (len(value) > 63 or not _QUALIFIED.fullmatch(value)):
            yield cause(
                field,
                f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric '
                "characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            )


def wrong_key(key: str, field: str) -> Iterator[Object]:
    """What is wrong with the key of a label or an annotation: `[prefix/]name`."""
    prefix, slash, name = key.rpartition("/")
    if not name or len(name) > 63 or not _QUALIFIED.fullmatch(name) or (slash and not _SUBDOMAIN.fullmatch(prefix)):
        yield cause(
            field,
            f"Invalid value: \"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.', and "
            "must start and end with an alphanumeric character",
        )


def wrong_data_key(key: str, field: str) -> Iterator[Object]:
    """What is wrong with a key of a ConfigMap or Secret."""
    if len(key) > 253 or key in (".", "..") or not _KEY.fullmatch(key):
        yield cause(
            f"{field}[{key}]",
            f"Invalid value: \"{key}\": a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
        )


def is_label(name: str) -> bool:
    """Whether a name is a DNS-1123 label."""
    return bool(_LABEL.fullmatch(name)) and len(name) <= 63
