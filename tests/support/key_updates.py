"""Key updates of TLS 1.3, as many as one likes."""

import _ssl
import ctypes
import ssl


def updates(peer: ssl.SSLObject, count: int) -> None:
    """The peer changes its keys so many times (RFC 8446 4.6.3), which Python's ssl has no words for."""
    library = ctypes.CDLL(_ssl.__file__)  # which is linked with it
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.SSL_do_handshake.argtypes = [ctypes.c_void_p]
    # PySSLSocket: PyObject_HEAD, the socket's weak reference, SSL*
    pointer = ctypes.c_void_p.from_address(id(peer._sslobj) + object.__basicsize__ + 8)  # type: ignore[attr-defined]  # private
    for _ in range(count):
        assert library.SSL_key_update(pointer, 0) == 1
        library.SSL_do_handshake(pointer)
