"""What an earlier injection has added, where it says what a new one would and no more: it stays as it is. Pure.

An API server writes its defaults into what it stores, and that is no reason to put a bare container in the place of
one: a second injection of the same pod changes nothing. Whatever else is in a container of ours was written by
somebody who says that it was injected. An argument, a variable or a mount more could lead the app past the mesh; so
ours takes its place.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from pymesh_controlplane.injector.shape import Manifest, named_items

# Kubernetes' Quantity, which an API server writes in its shortest form: 1000m becomes 1, and 1024Mi 1Gi.
_QUANTITY: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(?:([numkMGTPE]|[KMGTPE]i)?|[eE]([0-9]{1,2}))")
_FACTORS: Final = {
    **{unit: Decimal(1000) ** power for power, unit in ((-3, "n"), (-2, "u"), (-1, "m"), (1, "k"))},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("MGTPE", 2)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}

# What an API server adds to containers and volumes, and with which values; what LimitRanges add is in `_added`. A value
# of one's own is not harmless: a kubelet mounts an empty file at terminationMessagePath, over whatever is there.
# Source: Kubernetes, pkg/apis/core/v1/defaults.go.
_DEFAULTS: Final[Mapping[str, tuple[object, ...]]] = {
    "imagePullPolicy": ("Always", "IfNotPresent"),
    "terminationMessagePath": ("/dev/termination-log",),
    "terminationMessagePolicy": ("File",),
    "apiVersion": ("v1",),  # of a fieldRef
    "defaultMode": (0o644,),  # of a volume's files
    "scheme": ("HTTP",),  # of a probe, as what follows
    "timeoutSeconds": (1,),
    "periodSeconds": (10,),
    "successThreshold": (1,),
    "failureThreshold": (3,),
}
# Where the ServiceAccount admission mounts a pod's token for the API server, and how it calls the volume.
_API_ACCESS: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_API_ACCESS_VOLUME: Final = "kube-api-access-"


def keep(spec: Manifest, before: Manifest) -> None:
    """Put containers and volumes of `before` into `spec`, which is changed, where the ones there say nothing else."""
    for field in ("initContainers", "containers", "volumes"):
        earlier = {item["name"]: item for item in named_items(before, field)}
        items = [(earlier.get(item["name"]), item) for item in named_items(spec, field)]
        spec[field] = [there if there is not None and says(there, item) else item for there, item in items]
        if field == "volumes":  # whose order means nothing
            places = {name: place for place, name in enumerate(earlier)}
            spec[field].sort(key=lambda item: places.get(item["name"], len(places)))


def says(whole: object, part: object) -> bool:
    """Whether `whole` is `part`, but for what an API server adds: its defaults, and the mount of the pod's token."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(
            name in whole and (_amounts if name in {"requests", "limits"} else says)(whole[name], value)
            for name, value in part.items()
        ) and all(_added(name, value) for name, value in whole.items() if name not in part)
    if isinstance(whole, list) and isinstance(part, list):
        rest = [item for item in whole if item in part or not _api_access(item)]
        return len(rest) == len(part) and all(map(says, rest, part))
    return isinstance(whole, bool) == isinstance(part, bool) and whole == part


def _added(name: str, value: object) -> bool:
    """Whether an API server may have added `name`. LimitRanges fill in amounts; resizePolicy follows from them."""
    if name in {"requests", "limits"}:
        return isinstance(value, dict)
    return name == "resizePolicy" or (not isinstance(value, bool) and value in _DEFAULTS.get(name, ()))


def _api_access(item: object) -> bool:
    return (
        isinstance(item, dict)
        and item.keys() == {"name", "mountPath", "readOnly"}
        and str(item["name"]).startswith(_API_ACCESS_VOLUME)
        and item["mountPath"] == _API_ACCESS
        and item["readOnly"] is True
    )


def _amounts(whole: object, part: object) -> bool:
    """As `says`, of quantities by resource."""
    if not isinstance(whole, dict) or not isinstance(part, dict):
        return False
    return all(name in whole and _amount(whole[name]) == _amount(wanted) for name, wanted in part.items())


def _amount(quantity: object) -> object:
    """A number if it is a quantity, else what was written."""
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None:
        return quantity
    number, unit, exponent = found.groups()
    return Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _FACTORS.get(unit or "", Decimal(1)))
