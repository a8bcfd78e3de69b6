"""How a connection fails: in one word for counting, and in one line for reading."""

import ssl
from collections import Counter
from typing import Final

from benchmarks.load.answers import Answer

_KINDS: Final = (
    (ConnectionRefusedError, "refused"),
    (ConnectionResetError, "reset"),
    (BrokenPipeError, "reset"),
    (TimeoutError, "timeout"),
    (ssl.SSLError, "tls"),
)


class FailedError(Exception):
    """`kind` is the word: `refused`, `reset`, `closed`, `timeout`, `tls`, `protocol`, `connection`, `status 503`, …"""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


def failure(error: Exception) -> FailedError:
    """What the kernel or TLS said; `connection` where there is no word for it."""
    kind = next((kind for family, kind in _KINDS if isinstance(error, family)), "connection")
    return FailedError(kind, str(error) or type(error).__name__)


def judge(answer: Answer, body_bytes: int) -> FailedError | None:
    """Why an answer is not a good one: a status of 400 or above, or a body of another size (-1 takes any)."""
    if answer.status >= 400:
        return FailedError(f"status {answer.status}", f"{answer.body_bytes} bytes of body")
    if body_bytes not in (-1, answer.body_bytes):
        return FailedError("body", f"{answer.body_bytes} bytes instead of {body_bytes}")
    return None


class Failures:
    """Counted failures. `examples` are the words of the first of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, error: FailedError) -> None:
        """Count one."""
        self.counts[error.kind] += 1
        self.examples.setdefault(error.kind, str(error))
