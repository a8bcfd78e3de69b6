"""The names of kinds on the command line: as kubectl has them, in any case, singular, plural or short."""

from collections.abc import Iterable
from typing import Final

from pymesh.errors import MeshError

_SHORT: Final = {
    "Pod": ("po",),
    "Service": ("svc",),
    "ServiceAccount": ("sa",),
    "Namespace": ("ns",),
    "ConfigMap": ("cm",),
    "Secret": (),
    "EndpointSlice": (),
    "Deployment": ("deploy",),
    "VirtualService": ("vs",),
    "DestinationRule": ("dr",),
    "ServiceEntry": ("se",),
    "Gateway": ("gw",),
    "PeerAuthentication": ("pa",),
    "AuthorizationPolicy": ("ap",),
    "RequestAuthentication": ("ra",),
    "RateLimit": (),
    "ConcurrencyLimit": (),
    "Check": (),
}


def names_of(kind: str) -> Iterable[str]:
    """Every name that `kind` goes by, in lower case."""
    lower = kind.lower()
    plural = f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"
    return lower, plural, *_SHORT[kind]


def known() -> list[str]:
    """A name of each kind, as people write them: in the plural, in lower case."""
    return [list(names_of(kind))[1] for kind in _SHORT]


def kind_of(name: str) -> str:
    """The kind called `name`.

    Raises:
        MeshError: there is none.
    """
    wanted = name.lower()
    for kind in _SHORT:
        if wanted in names_of(kind):
            return kind
    raise MeshError(f"there is no kind {name}; there are {', '.join(kind.lower() for kind in _SHORT)}")
