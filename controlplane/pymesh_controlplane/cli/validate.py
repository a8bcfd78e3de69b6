"""`pymesh validate -f FILE`: everything that is wrong with manifests, in the words of `apply`, without a mesh."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pymesh import names
from pymesh.resources.resource import Key
from pymesh_controlplane.cli import manifests, output, target
from pymesh_controlplane.cli.output import Format
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local import gateways, state, system
from pymesh_controlplane.local.texts import Text

if TYPE_CHECKING:
    from pymesh_controlplane.local.judge import Applied

_Files = Annotated[list[str], typer.Option("-f", "--filename", help="A file or directory with manifests; - is stdin.")]
_Mesh = Annotated[str, typer.Option("--mesh", help="Judge them next to what is in force in this mesh of this machine.")]
_Context = Annotated[str, typer.Option("--context", help="Judge them next to what is in force in this cluster.")]
_Kubeconfig = Annotated[str, typer.Option("--kubeconfig", help="Likewise, in the cluster that this file leads to.")]
_Namespace = Annotated[
    str, typer.Option("-n", "--namespace", help="Namespace of what names none; by default `default`, or the context's.")
]
_Output = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]

_NEXT_TO = "--mesh NAME or --context NAME judges them next to what is in force in a mesh or a cluster"
_Problems = list[dict[str, Any]]


def validate(  # noqa: PLR0917  a command has as many options as it has
    filename: _Files,
    mesh: _Mesh = "",
    context: _Context = "",
    kubeconfig: _Kubeconfig = "",
    namespace: _Namespace = "",
    output_format: _Output = Format.table,
) -> None:
    """Say everything that is wrong with manifests, and change nothing.

    They are judged as `apply` would on a mesh that has just been started: by themselves. With --mesh, --context or
    --kubeconfig they are judged next to what is in force there. The exit status is 1 if something is wrong; warnings
    alone leave it 0.
    """
    texts = manifests.read(filename)
    somewhere = bool(mesh or context or kubeconfig)
    if somewhere:
        with target.opened(mesh, context, kubeconfig) as found:
            problems: _Problems = found.validate(texts, namespace or found.namespace)
    else:
        problems = _alone(texts, namespace or "default")
    errors = [problem for problem in problems if problem["severity"] == "error"]
    if output_format is Format.table:
        _print(problems, len(errors), alone=not somewhere)
    else:
        output.show(Console(highlight=False), output_format, problems, (), ())
    if errors:
        raise typer.Exit(1)


def _alone(texts: list[Text], namespace: str) -> _Problems:
    # Here and not above: this takes a fifth of a second to load, and no other command needs it.
    from pymesh_controlplane.local.judge import judge

    injection = InjectionConfig()
    verdict = judge(texts, namespace, _of_every_mesh(injection), injection, datetime.now(UTC))
    return [dict(problem.as_json()) for problem in verdict.problems]


def _of_every_mesh(injection: InjectionConfig) -> "dict[Key, Applied]":
    """What `pymesh up` starts of its own accord: gateways that a selector may mean, services that limits ask."""
    from pymesh_controlplane.local.judge import judge

    documents = system.manifests(state.named("none"), list(system.PARTS))
    for part in gateways.GATEWAYS:
        documents += gateways.manifests(part, {}, injection)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    own = judge([Text("the mesh's own manifests", "/", text)], names.SYSTEM_NAMESPACE, {}, injection)
    return {applied.resource.key: applied for applied in own.items}


def _print(problems: _Problems, errors: int, *, alone: bool) -> None:
    """A line for each problem on standard output, as compilers print them, and the sum on standard error."""
    for problem in problems:
        typer.echo(problem["text"])
    if not errors:
        typer.echo("valid" if not problems else f"valid, with {_count(len(problems), 'warning')}", err=True)
        return
    how = f"; judged by themselves: {_NEXT_TO}" if alone else ""
    typer.echo(f"pymesh: {_count(errors, 'error')}{how}", err=True)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
