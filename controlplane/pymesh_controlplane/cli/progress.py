"""Steps that take time, told while they do: a line that changes on a terminal, lines that stay in a pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

Update = Callable[[str], None]


@contextmanager
def step(console: Console, title: str) -> Iterator[Update]:
    """Show `title` while the block runs, with what it says that it waits for; at the end, how long it took."""
    began = time.monotonic()
    if not console.is_terminal:
        console.print(Text.assemble("  … ", title))
        yield _ignore
        console.print(_done(title, began))
        return
    with console.status(title) as status:
        yield lambda waiting: status.update(Text.assemble(title, (f"  {waiting}" if waiting else "", "dim")))
    console.print(_done(title, began))


def _ignore(_: str) -> None:
    """In a pipe every line stays, so only beginnings and ends are told."""


def _done(title: str, began: float) -> Text:
    return Text.assemble(("  ✓ ", "green"), title, (f"  {time.monotonic() - began:.1f} s", "dim"))
