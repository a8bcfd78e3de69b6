"""The body of an answer where it cannot go on as it came: the client speaks HTTP/1.0, its length is not known, or it is
none, after a 101. Pure. Nearly all answers need none of this.
"""

from pymesh_proxy.codec.body import Unchunked
from pymesh_proxy.codec.headers import Head


class Reframing:
    """How a body changes its form.

    Attributes:
        wraps: it had no length, and becomes chunked.
        until_close: only the end of the connection ends it.
        opaque: what follows is no body but another protocol.
    """

    __slots__ = ("_half_ended", "_unchunked", "opaque", "until_close", "wraps")

    def __init__(self, *, wraps: bool, until_close: bool, opaque: bool, unchunks: bool) -> None:
        self.wraps = wraps
        self.until_close = until_close
        self.opaque = opaque
        self._half_ended = False
        self._unchunked = Unchunked() if unchunks else None

    def first_half_ends(self) -> bool:
        """One side of the other protocol has said its last; False if that was the second one."""
        first, self._half_ended = not self._half_ended, True
        return first

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """A piece of the body as it goes to the client, and how many bytes of content, or of framing that came with
        it, are in there.
        """
        if self._unchunked is not None:
            data = self._unchunked.feed(data)
        return (b"%x\r\n%b\r\n" % (len(data), data) if self.wraps and data else data), len(data)


def reframing(head: Head, framing: int | None, minor: int) -> Reframing | None:
    """What an answer needs whose body is framed so (`http1.response_framing`), for a client that speaks HTTP/1.`minor`.

    A Transfer-Encoding that the client would not understand is taken off the head.
    """
    opaque = head.status == 101
    wraps = framing is None and minor == 1 and not opaque
    unchunks = False
    if head.chunked and minor == 0:  # RFC 9112 6.1: the client would take the chunks for content
        head.remove(b"transfer-encoding")
        unchunks = framing == -1
    until_close = unchunks or (framing is None and not wraps)
    if not (wraps or until_close):
        return None
    return Reframing(wraps=wraps, until_close=until_close, opaque=opaque, unchunks=unchunks)
