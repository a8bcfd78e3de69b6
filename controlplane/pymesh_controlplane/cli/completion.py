"""What the shell offers after a Tab: names that there are, asked of the mesh that the command line means so far.

A question that cannot be answered offers nothing, and says nothing: somebody is in the middle of typing.
"""

import os
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any

import typer

from pymesh.errors import MeshError
from pymesh_controlplane.cli.kinds import known


def kinds(incomplete: str) -> list[str]:
    """Kinds, as `pymesh get` takes them."""
    return _starting_with(incomplete, ("all", *known()))


def contexts(incomplete: str, ctx: typer.Context) -> list[str]:
    """Contexts of the kubeconfig."""
    import yaml

    from pymesh_controlplane.cli import target

    try:
        found = []
        for path in target.kubeconfigs(str(ctx.params.get("kubeconfig") or ""), os.environ):
            document = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
            found += [str(item["name"]) for item in document.get("contexts") or []]
    except (MeshError, OSError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return []
    return _starting_with(incomplete, found)


def namespaces(incomplete: str, ctx: typer.Context) -> list[str]:
    """Namespaces of the mesh."""
    return _starting_with(incomplete, _names(ctx, {"Namespace"}))


def services(incomplete: str, ctx: typer.Context) -> list[str]:
    """Services in the namespace of -n."""
    return _starting_with(incomplete, _names(ctx, {"Service"}))


def pods(incomplete: str, ctx: typer.Context) -> list[str]:
    """Pods and Deployments in the namespace of -n."""
    return _starting_with(incomplete, _names(ctx, {"Pod", "Deployment"}))


def subsets(incomplete: str, ctx: typer.Context) -> list[str]:
    """Subsets of the Service that is named already."""
    service = str(ctx.params.get("service") or "")

    def of(item: dict[str, Any]) -> Iterable[str]:
        spec = item.get("spec") or {}
        if service in {"", str(spec.get("host", "")).partition(".")[0]}:
            yield from (str(subset["name"]) for subset in spec.get("subsets") or [])

    return _starting_with(incomplete, _names(ctx, {"DestinationRule"}, of))


_Of = Callable[[dict[str, Any]], Iterable[str]]


def _name(item: dict[str, Any]) -> Iterable[str]:
    yield str(item["metadata"]["name"])


def _names(ctx: typer.Context, wanted: AbstractSet[str], of: _Of = _name) -> list[str]:
    from pymesh_controlplane.cli import target

    given = {name: str(ctx.params.get(name) or "") for name in ("mesh", "context", "kubeconfig", "namespace")}
    namespace = given.pop("namespace")
    try:
        with target.opened(**given) as mesh:
            if wanted & {"Namespace"}:
                return [*(name for item in mesh.objects(wanted) for name in of(item)), mesh.namespace]
            return [name for item in mesh.objects(wanted, namespace) for name in of(item)]
    except (MeshError, AttributeError, KeyError, TypeError):
        return []


def _starting_with(incomplete: str, found: Iterable[str]) -> list[str]:
    return sorted({name for name in found if name.startswith(incomplete)})
