"""What it costs pilot to read, judge and translate a mesh, and then one change of it.

    python -m benchmarks.micro.pilot_translation [--services 1000] [--proxies 20]

Prints milliseconds of CPU. `pilot_convergence` measures the same from outside, through the real process.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.micro import pilot_world
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.translate import Translator
from pymesh_controlplane.sources.files import Files
from pymesh_controlplane.sources.ledger import Ledger

T = TypeVar("T")


def timed(what: str, work: Callable[[], T]) -> T:
    """The result of `work`, and on standard output what it took."""
    begun = time.process_time()
    result = work()
    print(f"  {what:<34} {(time.process_time() - begun) * 1e3:8.1f} ms")
    return result


def translate(translator: Translator, world: World, proxies: int) -> None:
    """For the first proxy, which pays for what all share, and for the others."""
    timed("translate for the first proxy", lambda: translator.snapshot(pilot_world.node(0), world))
    begun = time.process_time()
    for index in range(1, proxies):
        translator.snapshot(pilot_world.node(index), world)
    each = (time.process_time() - begun) * 1e3 / max(proxies - 1, 1)
    print(f"  {'for each of the others':<34} {each:8.1f} ms")


def main() -> None:
    """Run once; nothing here is repeated often enough for a statistic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--proxies", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pilot_world.write(folder, given.services)
        for file in folder.iterdir():  # as if written long ago: what was written just now is read again in any case
            os.utime(file, (time.time() - 60,) * 2)
        files, ledger, translator = Files(folder), Ledger(), Translator()

        def everything() -> None:
            contents = timed("read and parse what changed", files.read)
            world = timed("judge and build the world", lambda: ledger.update(contents))
            translate(translator, world, given.proxies)

        print(f"{given.services} services, {given.proxies} proxies, from nothing")
        everything()
        print("another weight in one route")
        pilot_world.replace(folder, 0, pilot_world.manifest(0, weight=50))
        everything()
        print("an endpoint that is not ready")
        pilot_world.replace(folder, 0, pilot_world.manifest(0, weight=50, ready=False))
        everything()


if __name__ == "__main__":
    main()
