"""`pymesh rollout restart`: new pods in place of those that run, as many at a time as the Deployment allows."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from pymesh.errors import MeshError
from pymesh.resources.resource import Key
from pymesh_controlplane.cli.target import Context, Kubeconfig, MeshName, opened

# As kubectl: an annotation of the template, so that its pods are no longer those that are wanted.
RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
_KINDS: Final = frozenset({"deployment", "deployments", "deploy", "deployment.apps", "deployments.apps"})

app = typer.Typer(help="Replace the pods of a Deployment.", no_args_is_help=True)
out = Console(highlight=False)


@app.callback()
def rollout() -> None:
    """Replace the pods of a Deployment."""


@app.command()
def restart(
    what: Annotated[list[str], typer.Argument(metavar="deployment/NAME...", help="Or: deployment NAME...")],
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Its namespace.")] = "",
    mesh: MeshName = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Have new pods made, and the old ones ended as those become ready."""
    names = deployments(what)
    with opened(mesh, context, kubeconfig) as target:
        place = namespace or target.namespace
        known = {item["metadata"]["name"]: item for item in target.objects({"Deployment"}, place)}
        for name in names:
            if name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise MeshError(f"there is no deployment {name} in namespace {place}; there are: {there}")
        for name in names:
            key = Key("Deployment", place, name)
            target.put({key: restarted(known[name], datetime.now(UTC))}, [(key, known[name])])
            out.print(f"deployment.apps/{name} restarted")


def deployments(words: list[str]) -> list[str]:
    """The names in `deployment/a deployment/b` or `deployment a b`.

    Raises:
        MeshError: something else is meant.
    """
    if "/" not in words[0]:
        kind, *names = words
        if not names:
            raise MeshError(f"which one? write deployment/{kind}")
        words = [f"{kind}/{name}" for name in names]
    found = [word.partition("/") for word in words]
    for kind, slash, name in found:
        if kind.lower() not in _KINDS or not slash or not name:
            raise MeshError(f"{kind}{slash}{name} cannot be restarted: write deployment/NAME")
    return [name for _, _, name in found]


def restarted(document: dict[str, Any], now: datetime) -> dict[str, Any]:
    """`document`, a Deployment, asked at `now` for new pods. Pure."""
    template = document["spec"]["template"]
    metadata = template.get("metadata") or {}
    annotations = {**(metadata.get("annotations") or {}), RESTARTED_AT: now.isoformat(timespec="microseconds")}
    return {
        **document,
        "spec": {
            **document["spec"],
            "template": {**template, "metadata": {**metadata, "annotations": annotations}},
        },
    }
