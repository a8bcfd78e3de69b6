"""Commands about meshes of this machine, for which a cluster has kubectl: asked about a cluster, they say so. Pure."""

from collections.abc import Sequence
from typing import Final

from pymesh.errors import MeshError

_OPTIONS: Final = ("--context", "--kubeconfig")
# By command, what does the same in a cluster.
_INSTEAD: Final = {
    "up": "pymesh install {}",
    "down": "pymesh uninstall {}",
    "ps": "kubectl {} get pods -A",
    "apply": "kubectl {} apply -f FILE (galley judges there, too; pymesh validate {} -f FILE asks it before)",
    "delete": "kubectl {} delete KIND NAME",
    "get": "kubectl {} get KIND",
    "exec": "kubectl {} exec POD -- COMMAND",
    "logs": "kubectl {} logs POD",
    "rollout": "kubectl {} rollout restart deployment/NAME",
}


def require_this_machine(args: Sequence[str]) -> None:
    """Look whether a command that only meshes of this machine have is asked about a cluster.

    Args:
        args: of `pymesh`, the command first.

    Raises:
        MeshError: it is; the text says what to use.
    """
    command = args[0] if args else ""
    if command in _INSTEAD and (given := _cluster_options(args[1:])):
        instead = _INSTEAD[command].replace("{}", given)
        raise MeshError(f"pymesh {command} is about meshes of this machine; in a cluster: {instead}")


def _cluster_options(args: Sequence[str]) -> str:
    """The options among `args` that name a cluster, as they were written; not those of a command behind `--`."""
    own = args[: args.index("--")] if "--" in args else args
    found = []
    for index, word in enumerate(own):
        name, equals, _ = word.partition("=")
        if name in _OPTIONS:
            found.append(word if equals else " ".join(own[index : index + 2]))
    return " ".join(found)
