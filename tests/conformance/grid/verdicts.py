"""What became of a message in a few words, and whether one who read it anew saw the same."""

from typing import Final, TypeAlias

from tests.conformance.grid import reading
from tests.conformance.grid.lane import Outcome
from tests.conformance.grid.reading import Message
from tests.conformance.grid.requests import Crafted

# The columns of a verdict and their words.
Verdict: TypeAlias = dict[str, str]

# A proxy's own answer has a page of its own words: only its status counts.
OWN_ANSWERS: Final = 400
# The end of the line that every answer has which pymesh gives by itself for a reason (RFC 9209).
PROXY_STATUS: Final = b"proxy-status: pymesh;"


def of_request(outcome: Outcome) -> Verdict:
    """What became of a crafted request: answers, whether the connection ended, what the upstream got."""
    seen = outcome.requests()
    methods = tuple(message.start.split(" ")[0].encode("latin-1") for message in seen)
    answers = reading.responses(outcome.answer, methods, ended=outcome.ended)
    return {
        "answers": " ".join(message.start for message in answers),
        "connection": "closed" if outcome.ended else "open",
        "forwarded": " | ".join(told(message) for message in seen),
    }


def of_response(outcome: Outcome, crafted: Crafted) -> Verdict:
    """What became of a crafted response: what the client got, and whether its connection ended."""
    answers = reading.responses(outcome.answer, (crafted.method,), ended=outcome.ended)
    return {
        "answers": " | ".join(told(message) for message in answers),
        "connection": "closed" if outcome.ended else "open",
    }


def told(message: Message) -> str:
    """A message in the table. How much of an incomplete body went through is a matter of time, and not told."""
    start = message.start if len(message.start) <= 60 else f"{message.start[:30]}... ({len(message.start)} characters)"
    if not message.complete:
        return f"{start} (incomplete)"
    if message.start.isdigit() and int(message.start) >= OWN_ANSWERS:
        return start
    body = message.body if len(message.body) <= 40 else b"%b... (%d bytes)" % (message.body[:16], len(message.body))
    return f"{start} {repr(body)[1:]}" if body else start


def own(answer: bytes) -> bool:
    """Whether pymesh gave this answer by itself."""
    return PROXY_STATUS in answer.partition(b"\r\n\r\n")[0]


def misread(data: bytes, outcome: Outcome) -> str:
    """What is wrong if a server saw `outcome` in the request `data` with a marker behind it; empty if nothing is.

    It may see exactly these two, or refuse the first and see nothing. It must not see another number, or another body.
    What follows an upgrade that was not granted, it may leave alone.
    """
    [meant] = reading.requests(data)
    method = meant.start.split(" ")[0]
    seen = outcome.requests()
    answers = [message.start for message in reading.responses(outcome.answer, (method.encode(),), ended=outcome.ended)]
    refused = bool(answers) and answers[-1][:1] in {"4", "5"}
    if not seen and refused:
        return ""
    first, *others = seen or (Message("nothing", b"", complete=False),)
    same = first.complete and first.start.split(" ")[0] == method and first.body == meant.body
    may_end = refused or b"\r\nupgrade: " in data.lower()
    if same and ([other.start for other in others] == ["GET /end"] or (may_end and not others)):
        return ""
    return f"meant {told(meant)}, then GET /end; saw {' | '.join(map(told, seen))}; answered {' '.join(answers)}"


def misanswered(meant: tuple[Message, ...], seen: tuple[Message, ...]) -> str:
    """What is wrong if a client saw `seen` where `meant` was answered; empty if nothing is, or it was refused with 502.

    Interim responses may go missing. What is incomplete must not become complete.
    """
    final = [(message.start, message.body, message.complete) for message in meant if not message.start.startswith("1")]
    got = [(message.start, message.body, message.complete) for message in seen if not message.start.startswith("1")]
    if got == final or [start for start, _, _ in got] == ["502"]:
        return ""
    if len(got) == len(final) == 1 and not got[0][2] and not final[0][2]:
        return ""
    return f"meant {' | '.join(map(told, meant))}; saw {' | '.join(map(told, seen))}"
