"""`pymesh install` and `pymesh uninstall`: a mesh in a cluster, by the manifests of `deploy/` and server-side apply."""

import os
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console

from pymesh_controlplane.cli import bundle, output
from pymesh_controlplane.cli.output import Format
from pymesh_controlplane.cli.progress import step
from pymesh_controlplane.cli.target import Context, Kubeconfig, kubeconfigs

# Seconds until everything is ready; images may have to be fetched.
READY_TIMEOUT: Final = 300.0
# Seconds until everything is gone; a gateway's pod lets what is under way finish.
GONE_TIMEOUT: Final = 120.0

_NEXT: Final = """\
the mesh is ready. To have an app in it, label its namespace and start its pods anew:
  kubectl label namespace default istio-injection=enabled
  kubectl -n default rollout restart deployment
and ask whether all is well: pymesh check"""

_NEW_ROOT: Final = (
    "Secret pymesh-system/pymesh-ca is the mesh's CA, and goes with it: a mesh that is installed anew has another "
    "root, and sidecars of before neither trust it nor are trusted until their pods are started anew"
)

Output = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]
Document = dict[str, Any]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def install(  # noqa: PLR0917  a command has as many options as it has
    only: Annotated[
        str, typer.Option(help="Parts to install, separated by commas; the control plane comes along.")
    ] = "",
    without: Annotated[str, typer.Option(help="Parts to leave out: policy, telemetry, ingress, egress.")] = "",
    image_registry: Annotated[str, typer.Option(help="Where the images are, as in registry.example/mesh.")] = "",
    tag: Annotated[str, typer.Option(help="Tag of the images, instead of this version's.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be applied, and ask no cluster.")
    ] = False,
    output_format: Output = Format.table,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until everything is ready.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = READY_TIMEOUT,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that others have written.")
    ] = False,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Install the mesh in a cluster, or bring it up to this version. What is as it should be is left alone."""
    documents = bundle.documents(bundle.parts(only, without), image_registry, tag)
    if dry_run:
        _show(documents, output_format)
        return
    # Here and not above: they take half a second to load, and no other command needs them.
    from pymesh_controlplane.cli import installation
    from pymesh_controlplane.kube.api import Api
    from pymesh_controlplane.kube.kubeconfig import load
    from pymesh_controlplane.kube.paths import Paths

    with Api(load(kubeconfigs(kubeconfig, os.environ), context)) as api:
        paths = Paths(api)
        with step(err, f"applying {len(documents)} objects to the cluster of context {api.context}"):
            applied = list(installation.apply(api, paths, documents, force=force_conflicts))
        rows = [(bundle.title(document), outcome) for document, outcome in applied]
        listed = [{"object": title, "outcome": outcome} for title, outcome in rows]
        output.show(out, output_format, listed, ("OBJECT", "OUTCOME"), rows)
        if wait:
            with step(err, "waiting until everything is ready") as update:
                installation.wait(api, paths, documents, update, timeout)
            err.print(_NEXT, soft_wrap=True, markup=False)


def _show(documents: Sequence[Document], output_format: Format) -> None:
    """What would be applied: as a stream of YAML documents or a List, which kubectl takes too, or by name."""
    if output_format is Format.yaml:
        out.out(yaml.dump_all(documents, Dumper=yaml.CSafeDumper, sort_keys=False).rstrip(), highlight=False)
        return
    listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    output.show(out, output_format, listed, ("OBJECT",), [(bundle.title(document),) for document in documents])


def uninstall(  # noqa: PLR0917  a command has as many options as it has
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Delete what people wrote, too: resources of the mesh kinds, and Secrets beside the control plane.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go, and what would stay and why.")
    ] = False,
    output_format: Output = Format.table,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until everything is gone.")] = GONE_TIMEOUT,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Take the mesh out of a cluster. What people wrote stays, and its CRDs with it, unless --purge says otherwise."""
    from pymesh_controlplane.cli import removal  # as above
    from pymesh_controlplane.kube.api import Api
    from pymesh_controlplane.kube.kubeconfig import load
    from pymesh_controlplane.kube.paths import Paths

    with Api(load(kubeconfigs(kubeconfig, os.environ), context)) as api:
        paths = Paths(api)
        doing = "looking at" if dry_run else "deleting"
        with step(err, f"{doing} the mesh in the cluster of context {api.context}") as update:
            removed = list(removal.remove(api, paths, purge=purge, dry_run=dry_run))
            if not dry_run:
                removal.wait_until_gone(api, paths, update, timeout)
        listed = [{"object": title, "outcome": outcome} for title, outcome in removed]
        output.show(out, output_format, listed, ("OBJECT", "OUTCOME"), removed)
        if not removed:
            err.print("there is nothing of a mesh in the cluster")
        if any(title.endswith(f"/{removal.CA}") for title, _ in removed):
            err.print(_NEW_ROOT, soft_wrap=True)
        if dry_run:
            return
        if left := removal.with_sidecar(api, paths):
            err.print(
                f"{left} pods still have a sidecar, which goes on with what it knows until its certificate ends: take "
                "the label istio-injection from their namespaces, and start them anew (kubectl rollout restart)",
                soft_wrap=True,
            )
