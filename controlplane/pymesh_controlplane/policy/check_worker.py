"""The child process in which checks in Python run: `python -I -m pymesh_controlplane.policy.check_worker`.

It is given the sources of all checks on its standard input, says which checks are in them, and then answers one
question after the other, until its input ends. A thread that spins cannot be ended, a process can: whoever asks kills
it when it is late. It has fewer rights than we have: no new ones, no other processes, few descriptors, and no more
memory than MAX_MEMORY; and it dies with its parent. That contains accidents; it is no prison for hostile code.

Frames in both directions are MessagePack behind their length in four bytes. What a check prints goes to the log.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Mapping
from types import ModuleType
from typing import BinaryIO, Final

import msgspec

from pymesh import checks
from pymesh.checks import CheckError, Function, Request, Verdict

# Bytes of address space: an interpreter takes some 30 MB, mappings of libraries included 100.
MAX_MEMORY: Final = 512 * 2**20
# Descriptors: pipes, and what modules are read through.
MAX_FILES: Final = 32
# Bytes of a frame: all sources of a ConfigMap, which has 1 MiB at most.
MAX_FRAME: Final = 4 * 2**20

LENGTH: Final = struct.Struct(">I")

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


class Sources(msgspec.Struct, frozen=True):
    """The first frame to the child: sources by file name."""

    files: dict[str, str]


class Loaded(msgspec.Struct, frozen=True):
    """The first frame from it: the names of the checks, or why there are none."""

    names: list[str] = []
    problem: str = ""


class Question(msgspec.Struct, frozen=True):
    """About one request."""

    name: str
    request: Request


class Answer(msgspec.Struct, frozen=True):
    """The verdict, or why there is none."""

    verdict: Verdict | None = None
    problem: str = ""


def load(files: Mapping[str, str]) -> dict[str, Function]:
    """The checks in these sources, each file a module of its own.

    Raises:
        CheckError: a source cannot be run, with the line; or two checks have the same name.
    """
    found: dict[str, Function] = {}
    for name, source in sorted(files.items()):
        module = ModuleType(f"pymesh_checks.{name.removesuffix('.py')}")
        try:
            exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  it is what checks are
            in_file = checks.checks_in(vars(module))
        except Exception as error:
            raise CheckError(f"{name}: {_said(error, name)}") from error
        for check, function in in_file.items():
            if check in found:
                raise CheckError(f"{name}: there is a check called {check} in another file already")
            found[check] = function
    return found


def answer(known: Mapping[str, Function], question: Question) -> Answer:
    """What the check that is asked says; whatever it raises is told and goes no further."""
    try:
        return Answer(checks.ask(known[question.name], question.request))
    except KeyError as error:
        if question.name in known:
            return Answer(problem=_said(error))
        return Answer(problem=f"there is no check called {question.name}")
    except Exception as error:  # noqa: BLE001  this is the containment
        return Answer(problem=_said(error))


def _said(error: Exception, file: str = "") -> str:
    """An error in one line, with the line of the check's source where it was raised."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".py")]
    where = [frame for frame in frames if "/" not in frame.filename] or [
        frame for frame in frames if file in frame.name
    ]
    line = f" (line {where[-1].lineno} of {where[-1].filename})" if where else ""
    text = " ".join(str(error).split())[: checks.MAX_REASON]
    kind = "" if isinstance(error, CheckError) else f"{type(error).__name__}: "
    return f"{kind}{text}{line}"


def restrict() -> None:
    """Give up what checks do not need."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for what, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def read_frame(source: BinaryIO) -> bytes | None:
    """The next frame; None at the end."""
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    return source.read(length) if length <= MAX_FRAME else None


def frame(message: msgspec.Struct) -> bytes:
    """`message` as it travels."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


def main() -> int:
    """Serve until the input ends."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what is printed must not get among the frames
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a TextIOWrapper
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, meant for our parent
    restrict()
    first = read_frame(source)
    if first is None:
        return 1
    try:
        known = load(msgspec.msgpack.decode(first, type=Sources).files)
    except CheckError as error:
        target.write(frame(Loaded(problem=str(error))))
        return 1
    target.write(frame(Loaded(sorted(known))))
    while (data := read_frame(source)) is not None:
        target.write(frame(answer(known, msgspec.msgpack.decode(data, type=Question))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
