"""What an earlier injection has added, where it still says all that a new one would: it stays as it is. Pure.

An API server writes its defaults into what it stores, and other webhooks may have added to a sidecar. Neither is a
reason to put a bare one in its place: a second injection of the same pod changes nothing.
"""

import re
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
    """Whether `whole` has everything that `part` has, and only more: fields, and items between those of a list."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(
            name in whole and (_amounts if name in {"requests", "limits"} else says)(whole[name], value)
            for name, value in part.items()
        )
    if isinstance(whole, list) and isinstance(part, list) and any(isinstance(item, dict) for item in part):
        rest = iter(whole)
        return all(any(says(item, wanted) for item in rest) for wanted in part)
    return isinstance(whole, bool) == isinstance(part, bool) and whole == part


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
