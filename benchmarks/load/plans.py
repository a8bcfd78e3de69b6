"""What to measure, before anything is started: plain data, which is also a command line (`command_line.py`)."""

from dataclasses import dataclass, field
from typing import Final

from benchmarks.load.target import Request, Target, Trust

CONSTANT: Final = "constant"
POISSON: Final = "poisson"

# Seconds after which an answer is not waited for any more: far beyond what anybody would call slow.
TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Churn:
    """Connections that live for one request (closed loop: each is followed by the next).

    Attributes:
        connections: at a time.
        seconds: in which new ones are made.
        body_bytes: of each answer, where an answer of another size is an error; -1 takes any.
        resume: over TLS, take up the session of an earlier connection again.
    """

    target: Target
    connections: int
    seconds: float
    request: Request = field(default_factory=Request)
    trust: Trust = field(default_factory=Trust)
    timeout: float = TIMEOUT
    body_bytes: int = -1
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Idle:
    """Connections that have one request each and are then kept, until told. Attributes as in `Churn`."""

    target: Target
    connections: int
    request: Request = field(default_factory=Request)
    trust: Trust = field(default_factory=Trust)
    timeout: float = TIMEOUT
    body_bytes: int = -1


@dataclass(frozen=True, slots=True)
class Stream:
    """Opaque bytes over TCP to something that sends them back, such as `python -m benchmarks.load echo`.

    Attributes:
        seconds: in which bytes are sent.
        timeout: for the connects, and for the rest to come back.
    """

    host: str
    port: int
    connections: int
    seconds: float
    timeout: float = TIMEOUT


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests at a fixed rate over connections that are kept, whatever the answers do (open loop).

    Attributes:
        rate: requests a second.
        connections: opened before the first request; one request at a time each.
        seconds: of the schedule that count; `warm_up` more come before them and do not.
        arrivals: `constant`, or `poisson` by `seed`.
        window: seconds of each histogram in the result; 0 for one over everything.
        body_bytes: of each answer, where an answer of another size is an error; -1 takes any.
    """

    target: Target
    rate: float
    connections: int
    seconds: float
    request: Request = field(default_factory=Request)
    trust: Trust = field(default_factory=Trust)
    arrivals: str = CONSTANT
    seed: int = 1
    warm_up: float = 1.0
    window: float = 0.0
    timeout: float = TIMEOUT
    body_bytes: int = -1
