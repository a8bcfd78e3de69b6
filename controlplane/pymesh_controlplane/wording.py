"""Words for lists and for near misses, as everything that talks to people writes them.

A module of its own, without imports of ours: commands need it, and shall not wait for the model of a mesh to be loaded.
"""

import difflib
from collections.abc import Iterable


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean reviews.default.svc.cluster.local?`, or nothing if no known name is close."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def listed(words: Iterable[object], limit: int = 8) -> str:
    """`a, b, c`, cut off after `limit`."""
    texts = [str(word) for word in words]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more if texts else "none"
