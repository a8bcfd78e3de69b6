"""The volumes of a pod: directories in the state, filled from their sources, and bound into containers.

A file is replaced by renaming, so whoever reads it sees the old content or the new. Files may be read by everyone
inside a pod; the state directory itself (0700) keeps everyone else away: containers see only what is bound into them.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh.errors import ConfigError, MeshError
from pymesh_controlplane.local import downward
from pymesh_controlplane.local.downward import PodFacts
from pymesh_controlplane.local.podspec import (
    ConfigMapVolume,
    Container,
    DownwardVolume,
    ProjectedSource,
    Volume,
)
from pymesh_controlplane.local.rootfs import Mount
from pymesh_controlplane.local.tokens import ISSUER

# Audience of a token that names none: its issuer, as in Kubernetes.
DEFAULT_AUDIENCE: Final = ISSUER


class NotThereYet(MeshError):  # noqa: N818  not an error but a state, which the pod waits in
    """A source that may still come; the text says what the pod waits for."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where content comes from.

    `config_map(name)` is the data of a ConfigMap of the pod's namespace, or None; `token(audience, lifetime)` is one.
    """

    facts: PodFacts
    config_map: Callable[[str], Mapping[str, str] | None]
    token: Callable[[str, int], str]


def write(volume: Volume, directory: Path, sources: Sources) -> None:
    """Fill `volume` in its `directory`, or bring what changed up to date; for a host path there is nothing to do.

    Raises:
        NotThereYet: a ConfigMap does not exist (yet).
        ConfigError: a source asks for something that there is not.
    """
    if volume.host_path is not None:
        if not Path(volume.host_path.path).exists():
            raise NotThereYet(f"waiting for {volume.host_path.path} of volume {volume.name} to exist")
        return
    directory.mkdir(parents=True, exist_ok=True)
    if volume.empty_dir is not None:
        directory.chmod(0o777)
        return
    files: dict[str, str] = {}
    parts = volume.projected.sources if volume.projected else [_as_source(volume)]
    for part in parts:
        if part.service_account_token is not None:
            token = part.service_account_token
            files[token.path] = sources.token(token.audience or DEFAULT_AUDIENCE, token.expiration_seconds)
        if part.config_map is not None:
            files |= _config_map_files(part.config_map, sources)
        if part.downward_api is not None:
            files |= _downward_files(part.downward_api, sources)
    _sync(directory, files)


def _as_source(volume: Volume) -> ProjectedSource:
    return ProjectedSource(config_map=volume.config_map, downward_api=volume.downward_api)


def _config_map_files(source: ConfigMapVolume, sources: Sources) -> dict[str, str]:
    data = sources.config_map(source.name)
    if data is None:
        if source.optional:
            return {}
        raise NotThereYet(f"waiting for ConfigMap {sources.facts.namespace}/{source.name}")
    if not source.items:
        return dict(data)
    missing = [item.key for item in source.items if item.key not in data]
    if missing and not source.optional:
        raise NotThereYet(f"waiting for key {missing[0]} in ConfigMap {sources.facts.namespace}/{source.name}")
    return {item.path: data[item.key] for item in source.items if item.key in data}


def _downward_files(source: DownwardVolume, sources: Sources) -> dict[str, str]:
    return {item.path: downward.field(sources.facts, item.field_ref.field_path) for item in source.items}


def _sync(directory: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = directory / name
        if path.is_file() and path.read_text() == content:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(content)
        temporary.replace(path)
    for path in [path for path in directory.rglob("*") if path.is_file()]:
        if str(path.relative_to(directory)) not in files:
            path.unlink()


def mounts(container: Container, volumes: Mapping[str, Volume], root: Path) -> list[Mount]:
    """What `container` mounts, of `volumes` that lie below `root` by their names.

    Raises:
        ConfigError: a `subPath` does not exist in its volume.
    """
    result = []
    for mount in container.volume_mounts:
        volume = volumes[mount.name]
        source = Path(volume.host_path.path) if volume.host_path else root / volume.name
        if mount.sub_path:
            source /= mount.sub_path
            if volume.empty_dir is not None:
                source.mkdir(parents=True, exist_ok=True)
            if not source.exists():
                raise ConfigError(f"volume {volume.name} has no {mount.sub_path}")
            # A container may have put a symbolic link there, and this runs as root.
            if volume.host_path is None and not source.resolve().is_relative_to((root / volume.name).resolve()):
                raise ConfigError(f"{mount.sub_path} leads out of volume {volume.name}")
        # As in Kubernetes, only emptyDir and hostPath can be written to.
        read_only = mount.read_only or (volume.empty_dir is None and volume.host_path is None)
        result.append(Mount(str(source), mount.mount_path, read_only))
    return result


def remove(root: Path) -> None:
    """Delete all volumes of a pod."""
    shutil.rmtree(root, ignore_errors=True)
