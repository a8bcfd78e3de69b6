"""Figures of the kernel: their text, and what they say of processes that do something known."""

import os
import subprocess
import sys

import pytest

from benchmarks.macro import procfs
from benchmarks.macro.procfs import Stat
from tests.support.waiting import eventually_sync

STAT = "4711 ({name}) S 42 4711 4711 0 -1 4194560 1 2 3 4 {ticks} 20 0 1 0 12345 100 200\n"


@pytest.mark.parametrize("name", ["nginx", "a (b) c", ") S 1 2", "x\ny"])
def test_stat_whatever_the_program_is_called(name: str) -> None:
    assert procfs.parse_stat(STAT.format(name=name, ticks="100 20 3 4")) == Stat(parent=42, ticks=127)


def test_a_family_is_a_process_and_its_descendants() -> None:
    stats = {1: Stat(0, 0), 2: Stat(1, 0), 3: Stat(2, 0), 4: Stat(3, 0), 5: Stat(1, 0)}
    assert procfs.family(2, stats) == {2, 3, 4}
    assert procfs.family(5, stats) == {5}
    assert procfs.family(99, stats) == set()


def test_resident_memory_is_in_bytes() -> None:
    text = "00400000-7fff000 ---p 00000000 00:00 0 [rollup]\nRss:               23456 kB\nPss:               12 kB\n"
    assert procfs.parse_resident(text) == 23_456 * 1024
    with pytest.raises(ValueError, match="Rss"):
        procfs.parse_resident("Pss: 12 kB\n")


def test_the_processors_name() -> None:
    assert procfs.parse_cpu_model("processor\t: 0\nmodel name\t: AMD EPYC \nmodel name\t: other\n") == "AMD EPYC"
    assert procfs.parse_cpu_model("processor\t: 0\nBogoMIPS\t: 50.00\n") == "unknown"
    assert procfs.cpu_model()


@pytest.mark.parametrize(("text", "cpus"), [("0\n", {0}), ("0-2,5", {0, 1, 2, 5}), ("1,3", {1, 3})])
def test_lists_of_processors(text: str, cpus: set[int]) -> None:
    assert procfs.parse_cpu_list(text) == cpus


def test_a_processor_is_its_own_sibling() -> None:
    cpu = min(os.sched_getaffinity(0))
    assert cpu in procfs.siblings(cpu)
    assert procfs.siblings(99_999) == {99_999}


def test_cpu_time_is_that_of_all_its_processes_also_of_those_that_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {burn!r}])\n{burn}\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", parent])
    try:
        eventually_sync(lambda: procfs.cpu_seconds(process.pid) >= 0.58, what="0.3 s each of parent and child")
    finally:
        process.kill()
        process.wait()


def test_memory_is_that_of_a_process_and_its_children() -> None:
    hold = "import time\nheld = b'x' * 50_000_000\ntime.sleep(60)"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hold!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    try:
        eventually_sync(lambda: procfs.resident_bytes(process.pid) > 50_000_000, what="the child's 50 MB")
        assert procfs.resident_bytes(process.pid) < 150_000_000
    finally:
        [child] = procfs.family(process.pid, procfs.processes()) - {process.pid}
        os.kill(child, 9)
        process.wait()


def test_a_process_that_is_gone_has_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert procfs.cpu_seconds(process.pid) == 0.0
    assert procfs.resident_bytes(process.pid) == 0
