"""Load from the command line: see the package's description, and `--help`."""

import json
import sys

import uvloop

from benchmarks.load import command_line, text
from benchmarks.load.open_loop import measure
from pymesh.errors import MeshError


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status: 1 where nothing could be measured, or there were errors."""
    arguments = command_line.parser().parse_args(argv)
    try:
        found = uvloop.run(measure(command_line.requests(arguments)))
    except MeshError as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(found.document()) if arguments.json else "\n".join(text.latencies(found)))
    return 1 if found.errors else 0


if __name__ == "__main__":
    sys.exit(main())
