"""The file system that a container sees: the machine's own, read-only, with what is private to the container on top.

There are no images on one machine: programs come from where the machine has them. So a container's root is a tmpfs in
which every entry of `/` appears as a read-only bind mount, and only what has to differ is made anew:

- `/tmp`, `/run` and `/dev/shm` are the container's own;
- a volume may be mounted at a path that the machine does not have. Then the closest directory that it has is opened up:
  a directory in the tmpfs takes its place, with the same entries as bind mounts, and room for one more;
- a path that the container needs may lie below a directory that only its owner may enter (an interpreter in a `/root`
  of mode 0700, while sidecars run as uid 1337). The topmost such directory is covered by an empty one of mode 0755, and
  only the needed paths are put back, under the same names.

`plan` decides, and only looks at the machine's directories; `build` mounts, in a mount namespace of its own. Standard
library only: the launcher of a container imports this.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pymesh_controlplane.local import kernel

# What one container may keep in each of its own tmpfs; they live in memory.
PRIVATE_SIZE: Final = "64m"
_PRIVATE: Final = (("/tmp", 0o1777), ("/run", 0o755), ("/dev/shm", 0o1777))  # noqa: S108  these are mount points
# As the kernel counts symbolic links before it gives up with ELOOP: path_resolution(7).
_MAX_LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of the machine, at a place of the container's own."""

    source: str
    target: str
    read_only: bool = False


@dataclass(slots=True)
class Bind:
    """An entry that shows the machine's own `source`."""

    source: str


@dataclass(slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(slots=True)
class File:
    """An empty file: something is mounted on it."""


@dataclass(slots=True)
class Directory:
    """A directory of the container's own tmpfs; `private` ones get a writable tmpfs of their own when all is built."""

    private: bool = False
    entries: "dict[str, Node]" = field(default_factory=dict)


Node = Bind | Link | File | Directory


@dataclass(frozen=True, slots=True)
class Plan:
    """The tree to build, and what is mounted on it afterwards, in order."""

    tree: Directory
    mounts: tuple[Mount, ...]


def plan(required: Iterable[str], mounts: Iterable[Mount], host: str = "/") -> Plan:
    """The root of a container that must be able to enter `required` paths and sees `mounts`.

    Args:
        required: absolute paths of the machine.
        mounts: volumes and files; outer ones are mounted before inner ones.
        host: the machine's root; another directory in tests.

    Raises:
        OSError: a required path does not exist, or a directory cannot be read.
    """
    planner = _Planner(host)
    mounts = list(mounts)
    for path in sorted(set(required), key=lambda path: (path.count("/"), path)):
        if any(f"{path}/".startswith(f"{private}/") for private, _ in _PRIVATE):
            mounts += _shown(host.rstrip("/"), path)
        else:
            planner.require(path)
    for path, _ in _PRIVATE:
        planner.make_room(path, directory=True, private=True)
    placed = []
    for mount in sorted(mounts, key=lambda mount: mount.target.count("/")):
        target = planner.make_room(mount.target, directory=Path(mount.source).is_dir())
        placed.append(Mount(mount.source, target, mount.read_only))
    return Plan(planner.tree, tuple(placed))


def _shown(host: str, path: str) -> list[Mount]:
    """Mounts that make `path` visible to everyone: itself or, if only its owner may enter it, what is in it."""
    source = Path(host + path)
    if not source.is_dir() or source.stat().st_mode & stat.S_IXOTH:
        return [Mount(str(source), path, True)]
    return [Mount(str(entry), f"{path}/{entry.name}", True) for entry in sorted(source.iterdir()) if entry.exists()]


class _Planner:
    def __init__(self, host: str) -> None:
        self.host = host.rstrip("/")
        self.tree = self.opened("/")

    def opened(self, path: str) -> Directory:
        """The machine's directory `path` as a directory of ours with the same entries."""
        directory = Directory()
        with os.scandir(self.host + path) as entries:
            for entry in entries:
                if entry.is_symlink():
                    directory.entries[entry.name] = Link(Path(entry.path).readlink().as_posix())
                elif entry.is_dir() or entry.is_file():
                    directory.entries[entry.name] = Bind(entry.path)
        return directory

    def require(self, path: str) -> None:
        """Make `path` reachable for everyone, without showing more of what its owner had closed."""
        steps = self._resolve(path)
        closed = [at for at, mode in steps if stat.S_ISDIR(mode) and not mode & stat.S_IXOTH]
        if not closed:
            return
        node = self.tree
        for index, (at, mode) in enumerate(steps):
            name = at.rpartition("/")[2]
            last = index == len(steps) - 1
            entry = node.entries.get(name)
            if isinstance(entry, Bind) and not any(inner.startswith(at) for inner in closed):
                return
            if not isinstance(entry, Directory):
                entry = self._uncovered(at, mode, last=last, hidden=at in closed or entry is None)
                node.entries[name] = entry
            if isinstance(entry, Directory):
                node = entry

    def _uncovered(self, at: str, mode: int, *, last: bool, hidden: bool) -> Node:
        if last:
            # Closed itself: its entries are put back one by one. Otherwise it is shown as it is.
            return self.opened(at) if stat.S_ISDIR(mode) and not mode & stat.S_IXOTH else Bind(self.host + at)
        return Directory() if hidden else self.opened(at)

    def _resolve(self, path: str) -> list[tuple[str, int]]:
        """Every directory on the way to `path` and itself, with their modes; links on the way are kept in the tree."""
        steps: list[tuple[str, int]] = []
        for at in _prefixes(path):
            mode = os.lstat(self.host + at).st_mode
            if not stat.S_ISLNK(mode):
                steps.append((at, mode))
                continue
            target = Path(self.host + at).readlink().as_posix()
            if any(not m & stat.S_IXOTH for _, m in steps):
                self._keep_link(at, target, steps)
            return self._resolve(_joined(at, target, path))
        return steps

    def _keep_link(self, at: str, target: str, steps: list[tuple[str, int]]) -> None:
        for parent, _ in steps[-1:]:
            self.require_directory(parent)
        node: Node = self.tree
        for name in _parts(at)[:-1]:
            assert isinstance(node, Directory)
            node = node.entries[name]
        if isinstance(node, Directory):
            node.entries[_parts(at)[-1]] = Link(target)

    def require_directory(self, path: str) -> None:
        """Have a directory of ours at `path`, which is below a closed one: empty where there was none."""
        node = self.tree
        for at in _prefixes(path):
            name = at.rpartition("/")[2]
            entry = node.entries.get(name)
            if isinstance(entry, Bind):
                closed = not os.lstat(self.host + at).st_mode & stat.S_IXOTH
                entry = Directory() if closed else self.opened(at)
            elif not isinstance(entry, Directory):
                entry = Directory()
            node.entries[name] = entry
            node = entry

    def make_room(self, path: str, *, directory: bool, private: bool = False, links: int = 0) -> str:
        """Have a place at `path` to mount something on, and return the path with its symbolic links followed.

        Raises:
            OSError: too many symbolic links, or something that is not a directory is on the way.
        """
        if links > _MAX_LINKS:
            raise OSError(f"{path} has more than {_MAX_LINKS} symbolic links")
        node = self.tree
        names = _parts(path)
        for index, name in enumerate(names):
            at, rest = "/" + "/".join(names[: index + 1]), names[index + 1 :]
            entry = node.entries.get(name)
            if isinstance(entry, Bind):
                link = self._link_below(entry.source, rest)
                if link is not None:
                    count, target = link
                    there = _joined("/".join((at, *rest[:count])), target, path)
                    return self.make_room(there, directory=directory, private=private, links=links + 1)
                if not rest or Path(entry.source, *rest).exists():
                    return path
                entry = node.entries[name] = self.opened(entry.source.removeprefix(self.host))
            elif isinstance(entry, Link):
                there = _joined(at, entry.target, path)
                return self.make_room(there, directory=directory, private=private, links=links + 1)
            elif entry is None:
                entry = node.entries[name] = Directory() if rest or directory else File()
            if isinstance(entry, File):
                if rest:
                    raise NotADirectoryError(f"{at} is a file; nothing can be mounted below it")
                return path
            if entry.private:
                return path
            node = entry
        if private:
            node.private = True
        return path

    @staticmethod
    def _link_below(source: str, rest: list[str]) -> tuple[int, str] | None:
        """The first symbolic link on the way `rest` below `source`: how many names lead to it, and its target."""
        for count in range(1, len(rest) + 1):
            at = Path(source, *rest[:count])
            if at.is_symlink():
                return count, at.readlink().as_posix()
        return None


def _parts(path: str) -> list[str]:
    return [part for part in os.path.normpath(path).split("/") if part]


def _prefixes(path: str) -> list[str]:
    parts = _parts(path)
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]


def _joined(link: str, target: str, path: str) -> str:
    """Where `path` leads when the symbolic link at `link`, one of its prefixes, points to `target`."""
    rest = os.path.normpath(path)[len(link) :].lstrip("/")
    return os.path.normpath(os.path.join(os.path.dirname(link), target, rest))  # noqa: PTH118, PTH120  text, not files


def build(plan: Plan, at: str) -> None:
    """Mount `plan` at the directory `at` and make it the root. The caller has a mount namespace of its own.

    Raises:
        OSError: something could not be mounted; the text says what, and where.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("pymesh", at, "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m")
    _realise(plan.tree, at)
    # With its devices: the machine's /dev is in it.
    kernel.restrict(at, read_only=True, devices=True)
    for path, mode in _PRIVATE:
        options = f"mode={mode:o},size={PRIVATE_SIZE}"
        kernel.mount("pymesh", at + path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for mount in plan.mounts:
        _mount(mount, at)
    kernel.change_root(at)


def _realise(directory: Directory, at: str) -> None:
    for name, entry in directory.entries.items():
        path = f"{at}/{name}"
        if isinstance(entry, Link):
            Path(path).symlink_to(entry.target)
        elif isinstance(entry, Directory):
            Path(path).mkdir(mode=0o755)
            _realise(entry, path)
        elif isinstance(entry, File):
            Path(path).touch()
        else:
            if Path(entry.source).is_dir():
                Path(path).mkdir()
            else:
                Path(path).touch()
            kernel.mount(entry.source, path, None, kernel.MS_BIND | kernel.MS_REC)


def _mount(mount: Mount, at: str) -> None:
    target = Path(at + mount.target)
    # Inside a private directory or another volume the place is made only now that it is mounted.
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(mount.source).is_dir():
            target.mkdir()
        else:
            target.touch()
    kernel.mount(mount.source, str(target), None, kernel.MS_BIND | kernel.MS_REC)
    # Root in a container may make device files (CAP_MKNOD): in a volume they must not reach the machine's disks.
    in_dev = f"{os.path.realpath(mount.source)}/".startswith("/dev/")
    kernel.restrict(str(target), read_only=mount.read_only, devices=in_dev)
