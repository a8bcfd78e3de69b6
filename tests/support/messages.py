"""Plain requests and answers, for tests of what becomes of them."""

from tests.support.peers import Peer

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno"


def post(body: bytes) -> bytes:
    """A POST with `body`."""
    return b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def answer(upstream: Peer, response: bytes) -> bytes:
    """Answer the next request, and its head."""
    head, _ = await upstream.message()
    upstream.send(response)
    return head


def status(head: bytes) -> int:
    """The status of a response."""
    return int(head.split(b" ", 2)[1])


async def serve(upstream: Peer, *answers: bytes) -> list[bytes]:
    """Answer so many requests without a body, one after the other; their heads."""
    heads = []
    for answer in answers:
        heads.append(await upstream.head())
        upstream.send(answer)
    return heads
