"""Which mesh a command is about: one of this machine, or one in a cluster; and what commands need of either."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import typer

from pymesh.errors import MeshError
from pymesh.resources.resource import Key
from pymesh_controlplane.cli import completion
from pymesh_controlplane.cli.mesh import Expected, LocalMesh, Pilot, check_machine
from pymesh_controlplane.local import state
from pymesh_controlplane.local.texts import Text

DEFAULT_MESH: Final = "default"

MeshName = Annotated[
    str, typer.Option("--mesh", help="A mesh of this machine, by name; or $PYMESH_MESH, or `default` if it runs.")
]
Context = Annotated[
    str,
    typer.Option("--context", help="A cluster, by its context in the kubeconfig.", autocompletion=completion.contexts),
]
Kubeconfig = Annotated[str, typer.Option("--kubeconfig", help="Instead of $KUBECONFIG, or ~/.kube/config.")]
Everywhere = Annotated[bool, typer.Option("-A", "--all-namespaces", help="Of all namespaces, as it is without -n.")]

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """What sidecars said: namespace, pod and document; who did not answer, and the first one's `reason`."""

    documents: Sequence[tuple[str, str, Any]]
    silent: Sequence[str] = ()
    reason: str = ""


class Mesh(Protocol):
    """What commands need of a mesh, wherever it runs. All of it raises MeshError where the mesh does not answer."""

    @property
    def namespace(self) -> str:
        """Where a person means who names none."""

    def objects(self, kinds: Collection[str], namespace: str = "") -> list[Document]:
        """The Kubernetes objects of these kinds, with what is observed of them."""

    def pods(self) -> Mapping[str, str]:
        """Names of pods by their address."""

    def telemetry(self, page: str, query: Mapping[str, object]) -> Any:
        """A page of the collector (`telemetry/pages.py`).

        Raises:
            Absent: the mesh runs without one.
        """

    def pilots(self) -> Sequence[Pilot]:
        """What every replica of pilot says; a proxy is connected to one of them."""

    def authorities(self) -> Sequence[Any]:
        """What every replica of citadel says of the certificate authority (`citadel/rotation.py`, Report)."""

    def rotate(self, step: str) -> Any:
        """Have citadel take a step of a rotation; what it then says.

        Raises:
            MeshError: it refuses; the text says why.
        """

    def sidecars(self, path: str) -> Answers:
        """What the admin port of every proxy answers to `path`."""

    def put(self, documents: Mapping[Key, Document], expected: Sequence[Expected]) -> dict[Key, Document]:
        """Put objects in force; as what they then are.

        Raises:
            Changed: one of `expected` is something else by now; nothing was changed.
        """

    def remove(self, key: Key, expected: Sequence[Expected]) -> None:
        """Take an object out of force.

        Raises:
            Changed: likewise.
        """

    def validate(self, texts: Sequence[Text], namespace: str) -> list[Document]:
        """What is wrong with manifests next to what is in force (`Problem.as_json`)."""


@contextmanager
def opened(mesh: str = "", context: str = "", kubeconfig: str = "") -> Iterator[Mesh]:
    """The mesh that the options mean; connections to it are closed at the end of the block.

    A cluster if a context or a kubeconfig is given; else the mesh of this machine that is named, or runs; else the
    cluster that kubectl would ask.

    Raises:
        MeshError: there is none, or it cannot be said which.
    """
    files = which(mesh, context, kubeconfig, os.environ)
    if files is None:
        check_machine()
        yield LocalMesh(mesh or os.environ.get("PYMESH_MESH", "") or DEFAULT_MESH)
        return
    # Here and not above: it takes half a second to load, and a mesh of this machine does not need it.
    from pymesh_controlplane.cli.cluster import Cluster
    from pymesh_controlplane.kube.api import Api
    from pymesh_controlplane.kube.kubeconfig import load

    with Api(load(files, context)) as api, Cluster(api) as cluster:
        yield cluster


def which(mesh: str, context: str, kubeconfig: str, environ: Mapping[str, str]) -> list[Path] | None:
    """The kubeconfigs that lead to the cluster that is meant; None if a mesh of this machine is.

    Raises:
        MeshError: both are given, or there is neither.
    """
    if context or kubeconfig:
        if mesh:
            raise MeshError(
                "--mesh names a mesh of this machine, --context and --kubeconfig a cluster: give one of them"
            )
        return kubeconfigs(kubeconfig, environ)
    if mesh or environ.get("PYMESH_MESH") or state.supervisor(state.named(DEFAULT_MESH)) is not None:
        return None
    found = _existing(environ)
    if not found:
        raise MeshError(
            f"there is no mesh to ask: mesh {DEFAULT_MESH} does not run on this machine (pymesh up -f DIR starts it), "
            f"and no kubeconfig leads to a cluster: {_none(environ)}"
        )
    return found


def kubeconfigs(kubeconfig: str, environ: Mapping[str, str]) -> list[Path]:
    """The files that say how a cluster is reached.

    Raises:
        MeshError: there is none.
    """
    found = [Path(kubeconfig).expanduser()] if kubeconfig else _existing(environ)
    if not found:
        raise MeshError(f"there is no kubeconfig: {_none(environ)}")
    return found


def _existing(environ: Mapping[str, str]) -> list[Path]:
    """What kubectl would read without being told: the files of $KUBECONFIG, else ~/.kube/config."""
    home = environ.get("HOME", "")
    return [path for path in _named(environ) or [Path(home) / ".kube" / "config"] if path.is_file()]


def _named(environ: Mapping[str, str]) -> list[Path]:
    return [Path(part).expanduser() for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]


def _none(environ: Mapping[str, str]) -> str:
    """Where a kubeconfig was looked for in vain."""
    named = ", ".join(map(str, _named(environ)))
    where = f"$KUBECONFIG names {named}, and no such file is there" if named else "no $KUBECONFIG, no ~/.kube/config"
    return f"{where}; --kubeconfig FILE names one"


def only(namespace: str, everywhere: bool) -> str:
    """The namespace that -n and -A together mean; empty: all.

    Raises:
        MeshError: they contradict each other.
    """
    if namespace and everywhere:
        raise MeshError(f"-n {namespace} is one namespace, -A all of them: give one of the two")
    return namespace
