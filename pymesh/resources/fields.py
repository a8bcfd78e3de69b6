"""What the fields of the kinds are made of."""

import re
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

# Marks a field that the kind has, and that pymesh knows of, but cannot honour yet: it is refused by name.
UNSUPPORTED: Final = "unsupported"
NotYet: TypeAlias = Annotated[object | None, Meta(extra={UNSUPPORTED: True})]

_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|µs|ns|h|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

# The descriptions become the second half of "... is needed, not ...".
Duration: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^((\d+(\.\d*)?|\.\d+)(ms|us|µs|ns|h|m|s))+\Z",
        max_length=64,
        description="a duration with its unit, as in 250ms, 10s or 1h30m",
    ),
]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65535, description="a port number between 1 and 65535")]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1, description="a whole number, 0 or more")]
Weight: TypeAlias = Count
Percent: TypeAlias = Annotated[float, Meta(ge=0, le=100, description="a percentage between 0 and 100")]
WholePercent: TypeAlias = Annotated[int, Meta(ge=0, le=100, description="a percentage between 0 and 100")]
Name: TypeAlias = Annotated[
    str,
    Meta(
        max_length=253,  # RFC 1123 subdomain, as Kubernetes has it
        # \Z: $ would let a line end pass.
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z",
        description="a name of small letters, digits, '-' and '.', at most 253 characters",
    ),
]
Namespace: TypeAlias = Annotated[
    str,
    Meta(
        max_length=63,  # RFC 1123 label
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z",
        description="a namespace of small letters, digits and '-', at most 63 characters",
    ),
]


class Block(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A group of fields of a kind in which a name that nobody knows is an error."""


class Loose(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A group of fields of a kind of which the mesh reads only some; the rest is somebody else's and is let pass."""


class ObjectMeta(Block, frozen=True):
    """metadata of any object (k8s.io/apimachinery ObjectMeta)."""

    name: Name
    namespace: Namespace | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    generate_name: str | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: object | None = None
    deletion_timestamp: object | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: list[str] | None = None
    managed_fields: object | None = None
    owner_references: "list[OwnerReference] | None" = None
    self_link: str | None = None


class OwnerReference(Loose, frozen=True):
    """Who made an object (k8s.io/apimachinery OwnerReference)."""

    kind: str
    name: str
    controller: bool = False


def seconds(text: str) -> float:
    """The length of a Go duration, as in `1h30m` or `250ms`.

    Raises:
        ValueError: it is not a duration.
    """
    total, end = 0.0, 0
    while end < len(text):
        part = _DURATION_PART.match(text, end)
        if part is None:
            break
        total += float(part[1]) * _SECONDS[part[2]]
        end = part.end()
    if not text or end != len(text):
        raise ValueError(f"{text!r} is not a duration: write a number with a unit, as in 250ms, 10s or 1h30m")
    return total
