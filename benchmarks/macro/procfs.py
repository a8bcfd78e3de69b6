"""What Linux says of processes and of the machine, from the files below /proc and /sys."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """Of one process: who started it, and the CPU ticks of its threads and of those children that it has buried."""

    parent: int
    ticks: int


def parse_stat(text: str) -> Stat:
    """The text of `/proc/<pid>/stat` (proc(5)): ppid is field 4; utime, stime, cutime and cstime are 14 to 17.

    The second field is the program's name in parentheses and may have anything in it, parentheses and spaces included.
    """
    fields = text.rpartition(")")[2].split()  # from field 3 on
    return Stat(parent=int(fields[1]), ticks=sum(int(field) for field in fields[11:15]))


def family(root: int, stats: Mapping[int, Stat]) -> set[int]:
    """A process and everything that descends from it."""
    found = {root} & stats.keys()
    while more := {pid for pid, stat in stats.items() if stat.parent in found} - found:
        found |= more
    return found


def parse_resident(text: str) -> int:
    """Bytes resident, from the text of `/proc/<pid>/smaps_rollup`."""
    found = re.search(r"^Rss:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise ValueError("no Rss in smaps_rollup")
    return int(found[1]) * 1024


def parse_cpu_model(text: str) -> str:
    """The processor's name, from the text of `/proc/cpuinfo`; some architectures give none."""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else "unknown"


def parse_cpu_list(text: str) -> set[int]:
    """`0-2,5` as the kernel writes sets of processors."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def processes() -> dict[int, Stat]:
    """Every process there is, by its number."""
    numbered = (entry for entry in _PROC.iterdir() if entry.name.isdecimal())
    texts = {int(entry.name): _read(entry / "stat") for entry in numbered}
    return {pid: parse_stat(text) for pid, text in texts.items() if text}


def cpu_seconds(root: int) -> float:
    """User and system time that a process and its descendants, living and buried, have used so far.

    What a process has used that left no trace in its parent (a daemon's orphan) is missed; no program here has any.
    """
    stats = processes()
    return sum(stats[pid].ticks for pid in family(root, stats)) / _TICKS_PER_SECOND


def resident_bytes(root: int) -> int:
    """Memory resident of a process and its living descendants. Pages that they share are counted for each of them."""
    texts = (_read(_PROC / str(pid) / "smaps_rollup") for pid in family(root, processes()))
    return sum(parse_resident(text) for text in texts if text)


def cpu_model() -> str:
    """The processor's name."""
    return parse_cpu_model(_read(_PROC / "cpuinfo"))


def siblings(cpu: int) -> set[int]:
    """The processors that are threads of the same core, `cpu` among them."""
    text = _read(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
    return parse_cpu_list(text) if text else {cpu}


def _read(file: Path) -> str:
    """The text of a file of the kernel; empty where the process it tells of is gone."""
    try:
        return file.read_text(errors="replace")  # a process may be called anything
    except (FileNotFoundError, ProcessLookupError):
        return ""
