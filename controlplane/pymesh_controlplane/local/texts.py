"""Manifests on their way from a person's files to a mesh: nothing here needs what reads or judges them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Bytes of one apply. The manifests of a whole system are a few MB.
MAX_APPLY: Final = 32 * 1024 * 1024
# The directory of what comes from no file: where what was applied before under the same name came from.
NOWHERE: Final = Path()


@dataclass(frozen=True, slots=True)
class Text:
    """A file that was given: its name for error messages, the directory that its containers work in, its text."""

    name: str
    directory: str
    text: str


def as_text(document: Mapping[str, Any]) -> str:
    """`document` as pilot gets it; a character is a byte, for what is not ASCII is escaped."""
    return json.dumps(document, indent=1)
