"""A TLS handshake through a port-forward: whether who answers is whom a CA vouches for, and until when."""

import ssl
from datetime import UTC, datetime
from typing import Final

from pymesh_controlplane.kube.portforward import Stream

# Messages that a handshake may take before it is no handshake.
_MOST: Final = 64


def valid_until(stream: Stream, roots: str, server_name: str) -> datetime:
    """When the certificate ends that the other side shows, and has proved to be its own.

    Args:
        stream: a new connection.
        roots: the CA certificates to trust, PEM.
        server_name: whose certificate it has to be.

    Raises:
        ssl.SSLError: it is another's, is not from that CA, or there is no TLS.
        ApiError: the connection broke.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    for _ in range(_MOST):
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            stream.send(outgoing.read())
            if data := stream.receive():
                incoming.write(data)
            else:
                incoming.write_eof()
    else:
        raise ssl.SSLError("the handshake does not end")
    if last := outgoing.read():
        stream.send(last)
    certificate = tls.getpeercert()
    assert certificate is not None, "a server without one does not come so far"
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
