"""`pymesh shift SERVICE --to SUBSET`: blue-green, with a guard that goes back by itself.

The options alone: what the command does needs the model of a mesh, which takes 0.1 s to load, a third of every command.
"""

from typing import Annotated

import typer

from pymesh_controlplane.cli import completion, target
from pymesh_controlplane.cli.output import Format


def shift(  # noqa: PLR0917  a command has as many options as it has
    service: Annotated[str, typer.Argument(help="Name of a Service.", autocompletion=completion.services)],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="The subset of its DestinationRule that gets the requests.", autocompletion=completion.subsets
        ),
    ],
    step: Annotated[str, typer.Option(help="So much more at a time, as in 10%; by default all at once.")] = "",
    every: Annotated[str, typer.Option(help="How long each step is watched.")] = "5s",
    guard_text: Annotated[
        str, typer.Option("--guard", help="What must hold, as in errors<1%,p99<250ms; if not, it goes back by itself.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    mesh: target.MeshName = "",
    context: target.Context = "",
    kubeconfig: target.Kubeconfig = "",
    namespace: Annotated[
        str,
        typer.Option(
            "-n",
            "--namespace",
            help="Namespace of the Service; by default the context's, or `default`.",
            autocompletion=completion.namespaces,
        ),
    ] = "",
    output_format: Annotated[Format, typer.Option("-o", "--output", help="How to print.")] = Format.table,
) -> None:
    """Shift the requests to a service from one version to another, step by step, and watch how that goes.

    On this machine or in a cluster. The weights in its VirtualService are changed, as by `apply`. On a breach of the
    guard, on Ctrl-C, or if nobody can say any more how it goes, they become what they were, and the exit status is
    not 0.
    """
    from pymesh_controlplane.cli import shift as switch

    where = (mesh, context, kubeconfig)
    switch.run(service, to, step, every, guard_text, dry_run, where, namespace, output_format)
