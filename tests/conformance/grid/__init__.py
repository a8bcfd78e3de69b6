"""Crafted messages through four proxies, and what became of each: the grid.

    python -m tests.conformance.grid        sends them all, and writes table.json and docs/smuggling.md anew

`requests.py` and `responses.py` have the messages, `table.json` the verdicts; test_grid.py sends and compares them.
"""
