"""Pictures of what `python -m benchmarks.macro --json FILE` has measured; `python -m benchmarks.pictures --help`."""
