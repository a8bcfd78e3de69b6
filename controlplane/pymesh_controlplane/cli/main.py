"""`pymesh`: the operator's command."""

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from pymesh.errors import MeshError
from pymesh_controlplane.cli import ca, columns, completion, kubectl, manifests, output, restart
from pymesh_controlplane.cli import logs as log_files
from pymesh_controlplane.cli.check import check
from pymesh_controlplane.cli.demo.command import demo
from pymesh_controlplane.cli.graph import graph
from pymesh_controlplane.cli.inject import inject
from pymesh_controlplane.cli.install import install, uninstall
from pymesh_controlplane.cli.kinds import kind_of
from pymesh_controlplane.cli.mesh import READY_TIMEOUT, LocalMesh, check_machine, container_of, title
from pymesh_controlplane.cli.output import Format
from pymesh_controlplane.cli.progress import step
from pymesh_controlplane.cli.prometheus import prometheus
from pymesh_controlplane.cli.requests import journey, requests
from pymesh_controlplane.cli.shift_command import shift
from pymesh_controlplane.cli.status import status
from pymesh_controlplane.cli.target import Everywhere, only
from pymesh_controlplane.cli.validate import validate
from pymesh_controlplane.local import launch as launcher
from pymesh_controlplane.local.texts import Text

app = typer.Typer(
    name="pymesh",
    help="A service mesh: on this machine, where pods are network namespaces, or in a Kubernetes cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Mesh = Annotated[str, typer.Option("--mesh", envvar="PYMESH_MESH", help="Name of the mesh of this machine.")]
Files = Annotated[list[str], typer.Option("-f", "--filename", help="A file or directory with manifests; - is stdin.")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Namespace of what names none.")]
OnlyNamespace = Annotated[
    str, typer.Option("-n", "--namespace", help="Only this namespace.", autocompletion=completion.namespaces)
]
Pod = Annotated[
    str, typer.Argument(help="A pod, or a Deployment of which one is taken.", autocompletion=completion.pods)
]
Output = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Until it is in force: pods are ready, every proxy and the policy service know.")
]
Timeout = Annotated[float, typer.Option(help="Seconds to wait, with --wait.")]
Container = Annotated[str, typer.Option("-c", "--container", help="By default the app's.")]

# As shells report a program that SIGPIPE ended: 128 + its number.
READER_GONE: Final = 128 + signal.SIGPIPE

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # slow to load

        out.print(f"pymesh {version('pymesh-proxy')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which, and exit.")
    ] = False,
) -> None:
    """What stands before any command."""


@app.command()
def up(  # noqa: PLR0917  a command has as many options as it has
    filename: Files = [],  # noqa: B006  typer reads it and never changes it
    without: Annotated[str, typer.Option(help="Components to leave out, separated by commas.")] = "",
    mesh: Mesh = "default",
    namespace: Namespace = "default",
    timeout: Annotated[float, typer.Option(help="Seconds to wait until everything is ready.")] = READY_TIMEOUT,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and end the mesh on Ctrl-C.")] = False,
) -> None:
    """Start a mesh on this machine, run the manifests in it, and wait until everything is ready.

    In a cluster: pymesh install.
    """
    check_machine()
    texts = manifests.read(filename)
    local = LocalMesh(mesh)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with step(err, f"starting mesh {mesh}"):
            pid = local.start(
                texts, namespace=namespace, without=[part for part in without.split(",") if part], warn=_warn
            )
        with step(err, "waiting until everything is ready") as update:
            local.wait(update, timeout)
        err.print(f"mesh {mesh} is ready: pymesh ps shows its pods, pymesh down ends it")
        for way in local.ways_in():
            err.print(f"from this machine, {way}")
        if foreground:
            _until_ended(pid)
    except KeyboardInterrupt:
        # Nothing interrupts the cleaning up; it is bounded in time.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        err.print(f"ending mesh {mesh}")
        local.down()
        raise typer.Exit(130) from None


def _warn(text: str) -> None:
    err.print(text, soft_wrap=True, markup=False)  # a problem's text, which says that it is a warning


def _until_ended(pid: int) -> None:
    """Wait for the end of the supervisor, or for a signal, which becomes a KeyboardInterrupt here and nowhere else.

    A handler that raises could have its exception lost in whatever code it interrupts; a pipe loses nothing.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(told)
    err.print("Ctrl-C ends it")
    pidfd = os.pidfd_open(pid)
    ready, _, _ = select.select([pidfd, heard], [], [])
    signal.set_wakeup_fd(-1)
    for descriptor in (heard, told, pidfd):
        os.close(descriptor)
    if heard in ready:
        raise KeyboardInterrupt


@app.command()
def down(mesh: Mesh = "default") -> None:
    """End a mesh of this machine and remove everything of it, whatever state it is in.

    In a cluster: pymesh uninstall.
    """
    check_machine()
    if LocalMesh(mesh).down():
        err.print(f"mesh {mesh} is gone, and nothing of it is left")
    else:
        err.print(f"there is no mesh {mesh}: nothing to do")


@app.command()
def ps(
    mesh: Mesh = "default",
    namespace: OnlyNamespace = "",
    everywhere: Everywhere = False,
    output_format: Output = Format.table,
) -> None:
    """List the pods of a mesh of this machine, and say of each that is not ready what it waits for.

    In a cluster: kubectl get pods.
    """
    namespace = only(namespace, everywhere)
    check_machine()
    rows = [row for row in LocalMesh(mesh).rows() if namespace in {"", row["namespace"]}]
    _show(output_format, rows, output.POD_HEADER, output.pod_rows(rows, time.time()), namespace)


def _show(
    output_format: Format, document: Any, header: Sequence[str], rows: Sequence[Sequence[str]], namespace: str
) -> None:
    """Print what was found; of nothing a sentence as kubectl's, and no header."""
    if rows or output_format is not Format.table:
        output.show(out, output_format, document, header, rows)
    else:
        err.print(f"No resources found{f' in {namespace} namespace' if namespace else ''}.", markup=False)


@app.command()
def apply(  # noqa: PLR0917  as above
    filename: Files,
    mesh: Mesh = "default",
    namespace: Namespace = "default",
    force: Annotated[bool, typer.Option("--force", help="Even if what is in force becomes wrong.")] = False,
    wait: Wait = False,
    timeout: Timeout = READY_TIMEOUT,
) -> None:
    """Put manifests in force in a mesh of this machine: all of them or, if one is wrong or makes wrong what is, none.

    In a cluster: kubectl apply; galley judges there, too.
    """
    check_machine()
    local = LocalMesh(mesh)
    for name, outcome in local.apply(manifests.read(filename), namespace, _warn, force=force):
        out.print(f"{name} {outcome}")
    if wait:
        _wait(local, timeout)


def _wait(local: LocalMesh, timeout: float) -> None:
    with step(err, "waiting until it is in force") as update:
        local.wait(update, timeout)


@app.command()
def delete(  # noqa: PLR0917  as above
    kind: Annotated[str, typer.Argument(help="Kind of what to delete.")] = "",
    name: Annotated[str, typer.Argument(help="Its name.")] = "",
    filename: Files = [],  # noqa: B006  as above
    mesh: Mesh = "default",
    namespace: Namespace = "default",
    force: Annotated[bool, typer.Option("--force", help="Even if what stays in force names it.")] = False,
    wait: Wait = False,
    timeout: Timeout = READY_TIMEOUT,
) -> None:
    """Take resources out of force in a mesh of this machine: by KIND and NAME, or by files. What others name is kept.

    In a cluster: kubectl delete.
    """
    check_machine()
    if bool(filename) == bool(kind and name):
        raise typer.BadParameter("name either KIND and NAME, or files with -f")
    if filename:
        keys = [tuple(resource.key) for text in manifests.read(filename) for resource in _parsed(text, namespace)]
    else:
        full = kind_of(kind)
        keys = [(full, "" if full == "Namespace" else namespace, name)]
    local = LocalMesh(mesh)
    results = local.delete(keys, force=force)
    for resource, outcome in results:
        out.print(f"{resource} {outcome}")
    if wait:
        _wait(local, timeout)
    if any(outcome == "not found" for _, outcome in results):
        raise typer.Exit(1)


def _parsed(text: Text, namespace: str) -> list[Any]:
    # Here and not above: it takes a tenth of a second to load, and only this needs it.
    from pymesh.resources.parse import parse

    parsed = parse(text.text, text.name, namespace)
    if parsed.errors:
        raise MeshError("\n".join(str(error) for error in parsed.errors))
    return list(parsed.resources)


@app.command()
def get(  # noqa: PLR0917  as above
    kind: Annotated[
        str,
        typer.Argument(
            help="Kind, as in pods, svc or virtualservice; `all` is every kind.", autocompletion=completion.kinds
        ),
    ],
    name: Annotated[str, typer.Argument(help="Only the one of this name.")] = "",
    mesh: Mesh = "default",
    namespace: OnlyNamespace = "",
    everywhere: Everywhere = False,
    output_format: Output = Format.table,
) -> None:
    """Show resources of a mesh of this machine, as they were applied and with what is observed of them.

    In a cluster: kubectl get.
    """
    namespace = only(namespace, everywhere)
    check_machine()
    wanted = "" if kind == "all" else kind_of(kind)
    everything = LocalMesh(mesh).client.get("/objects")["items"]
    found = [
        document
        for document in everything
        if wanted in {"", document["kind"]}
        and name in {"", document["metadata"]["name"]}
        and namespace in {"", document["metadata"].get("namespace", "")}
    ]
    if name and not found:
        raise MeshError(f"there is no {title(wanted, namespace, name)}")
    found.sort(key=lambda item: (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]))
    header, rows = columns.object_rows(found, wanted, everything, time.time())
    one_or_list = found[0] if name and len(found) == 1 else {"apiVersion": "v1", "kind": "List", "items": found}
    _show(output_format, one_or_list, header, rows, namespace)


@app.command(name="exec", context_settings={"ignore_unknown_options": True})
def exec_(
    pod: Pod,
    command: Annotated[list[str], typer.Argument(help="What to run, after --.")],
    container: Container = "",
    mesh: Mesh = "default",
    namespace: OnlyNamespace = "",
) -> None:
    """Run a command in a container of a mesh of this machine, as its user. The exit status is the command's.

    In a cluster: kubectl exec.
    """
    check_machine()
    local = LocalMesh(mesh)
    launch = local.launch(local.find_pod(pod, namespace), container, command)
    try:
        launcher.enter(launch)
        launcher.become(launch)
    except OSError as error:
        raise MeshError(f"cannot enter {pod}: {error}") from None
    try:
        launcher.execute(launch)
    except OSError as error:
        status, why = launcher.not_executed(launch, error)
        err.print(f"pymesh: {why}", soft_wrap=True, markup=False)
        raise typer.Exit(status) from None


@app.command()
def logs(  # noqa: PLR0917  as above
    pod: Pod,
    container: Container = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines.")] = None,
    mesh: Mesh = "default",
    namespace: OnlyNamespace = "",
) -> None:
    """Print what a container of a mesh of this machine wrote.

    In a cluster: kubectl logs.
    """
    check_machine()
    local = LocalMesh(mesh)
    row = local.find_pod(pod, namespace)
    path = local.place.pods / row["namespace"] / row["name"] / "logs" / f"{container_of(row, container)}.log"
    try:
        with log_files.opened(path) as file:
            sys.stdout.buffer.write(log_files.tail(file, tail))
            sys.stdout.flush()
            for data in log_files.follow(file) if follow else ():
                output.require_reader()
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


app.command()(install)
app.command()(uninstall)
app.command()(inject)
for command in (validate, status, check, shift, graph, requests, journey, prometheus):
    app.command()(command)
app.command()(demo)
app.add_typer(restart.app, name="rollout")
app.add_typer(ca.app, name="ca")


def main() -> None:
    """The command. Errors of the person's making are one sentence on standard error, and exit status 1.

    Whoever reads what is printed may go away, as `head` does: no error, but an end, with READER_GONE.
    """
    try:
        kubectl.require_this_machine(sys.argv[1:])
        app()
    except SystemExit as end:
        # rich and typer make 1 of it; only what they were handling tells it from an error.
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(READER_GONE)
        raise
    except MeshError as error:
        err.print(f"pymesh: {error}", soft_wrap=True, markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
