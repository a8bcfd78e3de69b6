"""Requests from the machine into the mesh, and what came back of them: at a steady rate, or many at once."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

# Seconds that an answer may take; what takes longer is an error.
TIMEOUT: Final = 10.0
# Requests under way at once, at a steady rate: a slow answer does not hold up the next request.
WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    Attributes:
        at: when it was sent, seconds of the monotonic clock.
        seconds: until its answer was there.
        status: 0 where there was none.
        version: the version of `reviews` in the answer; empty if it has none.
        told: the answer's Proxy-Status, or why there was no answer.
        body: the answer's text.
    """

    at: float
    seconds: float
    status: int
    version: str = ""
    told: str = ""
    body: str = ""

    @property
    def good(self) -> bool:
        """Whether the client has what it asked for."""
        return self.status == 200


class Client:
    """One keep-alive connection to `url`. Not for several threads."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._path = parts.path or "/"
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> Answer:
        """Send a request, wait for its answer."""
        began = time.monotonic()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT)
        try:
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Answer(began, time.monotonic() - began, 0, told=str(error) or type(error).__name__)
        took, told = time.monotonic() - began, response.headers.get("proxy-status", "")
        return Answer(began, took, response.status, version_in(body), told, body.decode(errors="replace"))

    def close(self) -> None:
        """Let the connection go; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def version_in(body: bytes) -> str:
    """The `version` of a JSON answer; empty where there is none."""
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    return str(found.get("version", "")) if isinstance(found, dict) else ""


class Traffic:
    """`rate` requests a second to `url`, for as long as the `with` block runs."""

    def __init__(self, url: str, rate: float) -> None:
        self._url = url
        self._pause = WORKERS / rate
        self._step = 1 / rate
        self._answers: list[Answer] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(WORKERS)]

    @property
    def answers(self) -> list[Answer]:
        """What has come back so far, in the order of being sent."""
        return sorted(self._answers, key=lambda answer: answer.at)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        client = Client(self._url)
        due = time.monotonic() + number * self._step
        while not self._end.wait(max(0.0, due - time.monotonic())):
            self._answers.append(client.ask())
            due += self._pause
        client.close()


def burst(url: str, clients: int, requests: int) -> list[Answer]:
    """So many clients at once, each of which sends so many requests one after the other."""
    answers: list[Answer] = []
    gate = threading.Barrier(clients)

    def work() -> None:
        client = Client(url)
        gate.wait()
        answers.extend(client.ask() for _ in range(requests))
        client.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


# --- What to make of answers ---------------------------------------------------------------------------------------


def counted(answers: Iterable[Answer]) -> str:
    """How many of which status, the most frequent first: `480 with 200, 12 with 429`; 0 is no answer at all."""
    found = Counter(answer.status for answer in answers)
    words = (
        f"{count} with {status}" if status else f"{count} without an answer" for status, count in found.most_common()
    )
    return ", ".join(words) or "none"


def by_time(answers: Sequence[Answer], slice_seconds: float) -> list[list[Answer]]:
    """The answers in slices of time, from the first request on."""
    if not answers:
        return []
    first = answers[0].at
    slices: list[list[Answer]] = []
    for answer in answers:
        number = int((answer.at - first) / slice_seconds)
        while len(slices) <= number:
            slices.append([])
        slices[number].append(answer)
    return slices


def shares(answers: Sequence[Answer], key: Callable[[Answer], str], width: int) -> list[tuple[str, int]]:
    """What part of `width` each value of `key` has, largest remainder first, so that the parts add up to `width`."""
    found = Counter(key(answer) for answer in answers)
    total = found.total()
    parts = {name: width * count // total for name, count in found.items()}
    rest = sorted(found, key=lambda name: (-(width * found[name] % total), name))
    for name in rest[: width - sum(parts.values())]:
        parts[name] += 1
    return sorted(parts.items())


def slowest(answers: Iterable[Answer]) -> float:
    """Milliseconds of the slowest answer; 0 where there is none."""
    return max((answer.seconds * 1000 for answer in answers), default=0.0)
