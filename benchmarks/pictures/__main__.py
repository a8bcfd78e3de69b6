"""Draws what was measured.

    python -m benchmarks.pictures FIGURES.json [FOLDER]

It runs in an environment of its own, with matplotlib (`requirements/bench.txt`); nothing else here needs that.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.pictures import data
from pymesh.errors import MeshError

_FOLDER = Path(__file__).parents[1] / "figures"


def main(argv: list[str] | None = None) -> int:
    """Draw; the exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description="Pictures of a benchmark.")
    made.add_argument("figures", type=Path, metavar="FIGURES.json", help="what `benchmarks.macro --json` wrote")
    made.add_argument("folder", type=Path, nargs="?", default=_FOLDER, help="(default benchmarks/figures)")
    arguments = made.parse_args(argv)
    try:
        for file in drawn(_document(arguments.figures), arguments.folder):
            print(file)
    except MeshError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 1
    return 0


def drawn(document: dict[str, Any], folder: Path) -> list[Path]:
    """Every picture that there is something for.

    Raises:
        MeshError: the document is of something else, or a file cannot be written.
    """
    charts, pictures = data.charts(document), data.curves(document)
    from benchmarks.pictures import draw  # takes a second, and only where matplotlib is

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            files.append(folder / f"{chart.name}.svg")
            draw.ratios(chart, files[-1])
        for curves in pictures:
            files.append(folder / f"{curves.name}.svg")
            draw.latencies(curves, files[-1])
    except OSError as error:
        raise MeshError(f"cannot write {error.filename}: {error.strerror}") from error
    return files


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MeshError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise MeshError(f"{file} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MeshError(f"{file} is not what `python -m benchmarks.macro --json` writes")
    return document


if __name__ == "__main__":
    sys.exit(main())
