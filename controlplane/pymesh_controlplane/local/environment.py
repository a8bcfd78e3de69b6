"""The command, variables and user of a container, from what the pod says. Pure.

Source: Kubernetes API reference, Container v1 core (`command`, `args` and `env`: "Variable references $(VAR_NAME) are
expanded …") and SecurityContext v1 core.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from pymesh.errors import ConfigError
from pymesh_controlplane.local import downward
from pymesh_controlplane.local.downward import PodFacts
from pymesh_controlplane.local.kernel import CAPABILITIES
from pymesh_controlplane.local.launch import DEFAULT_CAPABILITIES
from pymesh_controlplane.local.podspec import Container, PodSecurityContext

# An image says whom its program runs as, and there is none. Root on the machine's own files is too much to give to
# what says nothing; 65532 is the "nonroot" of the distroless images and owns nothing on a machine.
DEFAULT_USER: Final = 65532

_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")

ConfigMaps = Callable[[str], Mapping[str, str] | None]


def variables(container: Container, facts: PodFacts, config_map: ConfigMaps, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of `container`: `base`, and what it names itself, in that order.

    Raises:
        ConfigError: a reference leads nowhere; the path is below the container.
    """
    result = dict(base)
    for index, variable in enumerate(container.env):
        source = variable.value_from
        if source is None:
            result[variable.name] = expand(variable.value, result)
        elif source.field_ref is not None:
            try:
                result[variable.name] = downward.field(facts, source.field_ref.field_path)
            except ConfigError as error:
                raise error.at(f"env[{index}].valueFrom.fieldRef.fieldPath") from None
        elif source.config_map_key_ref is not None:
            key = source.config_map_key_ref
            value = (config_map(key.name) or {}).get(key.key)
            if value is not None:
                result[variable.name] = value
            elif not key.optional:
                raise ConfigError(
                    f"ConfigMap {facts.namespace}/{key.name} has no key {key.key}", path=f"env[{index}].valueFrom"
                )
    return result


def command(container: Container, env: Mapping[str, str]) -> list[str]:
    """What to execute: command and args, with `$(NAME)` replaced."""
    return [expand(part, env) for part in (*container.command, *container.args)]


def expand(text: str, env: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced where NAME is known; `$$` is a dollar sign."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return env.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def user(container: Container, pod: PodSecurityContext) -> tuple[int, int]:
    """uid and gid of `container`."""
    own = container.security_context
    uid = next((wish for wish in (own.run_as_user, pod.run_as_user) if wish is not None), DEFAULT_USER)
    gid = next((wish for wish in (own.run_as_group, pod.run_as_group) if wish is not None), uid)
    return uid, gid


def capabilities(container: Container) -> tuple[str, ...]:
    """What root can do in `container`; every other user can do nothing special, as in Kubernetes.

    Raises:
        ConfigError: a capability that Linux does not have; the path is below the container.
    """
    wishes = container.security_context.capabilities
    if wishes is None:
        return DEFAULT_CAPABILITIES
    add, drop = ([name.removeprefix("CAP_") for name in names] for names in (wishes.add, wishes.drop))
    for name in (*add, *drop):
        if name != "ALL" and name not in CAPABILITIES:
            raise ConfigError(f"{name} is not a capability", path="securityContext.capabilities")
    kept = set[str]() if "ALL" in drop else set(DEFAULT_CAPABILITIES) - set(drop)
    kept |= set(CAPABILITIES) if "ALL" in add else set(add)
    return tuple(sorted(kept, key=CAPABILITIES.__getitem__))
