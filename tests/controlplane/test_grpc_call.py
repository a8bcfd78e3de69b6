"""A call of the server behind port 9091, apart from its connection."""

from dataclasses import dataclass, field

from pymesh.grpc.events import Request
from pymesh.grpc.server import ServerConnection
from pymesh_controlplane.grpc_call import Call


@dataclass
class Link:
    """A connection over which nothing goes."""

    connection: ServerConnection = field(default_factory=ServerConnection)
    peer: str = "ipv4:127.0.0.1:40000"

    async def room(self, stream_id: int) -> None:
        """There is some."""

    def flush(self) -> None:
        """Nowhere."""


async def handler(_: bytes | None, __: Call) -> None:
    """Which is not run."""


def stream() -> Call:
    return Call(Link(), Request(1, "/t/Repeat", "policy", [], None), handler, streams=True)


async def test_a_message_of_a_stream_has_the_time_between_two_looks() -> None:
    """From the first at which it is there in part, whatever was or was not before it."""
    call = stream()
    assert not call.stuck(unfinished=True), "the first look at a new stream"
    assert call.stuck(unfinished=True)
    call = stream()
    assert not call.stuck(unfinished=False)
    assert not call.stuck(unfinished=True), "it has begun since"
    call.deliver(b"it")
    await call.read()
    assert not call.stuck(unfinished=True), "the next one"
    assert call.stuck(unfinished=True)


async def test_a_message_behind_others_that_we_do_not_read_has_its_time_when_we_do() -> None:
    """It may have waited for a window that opens as we read."""
    call = stream()
    call.deliver(b"whole")
    assert not call.stuck(unfinished=True)
    assert not call.stuck(unfinished=True)
    await call.read()
    assert not call.stuck(unfinished=True)
    assert call.stuck(unfinished=True)
