"""A TLS handshake with a real server side, over a stream that brings it in pieces."""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from pymesh_controlplane.kube.handshake import valid_until
from pymesh_controlplane.kube.portforward import Stream
from tests.support.certificates import Authority

NAME = "galley.pymesh-system.svc"


class Server:
    """The far end of a forwarded port: TLS with a certificate of `authority`, at most `piece` bytes at a time."""

    def __init__(self, folder: Path, authority: Authority, *, piece: int) -> None:
        issued = authority.issue(dns=(NAME,))
        (folder / "cert.pem").write_bytes(issued.chain)
        (folder / "key.pem").write_bytes(issued.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._piece = piece

    def send(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._outgoing.write_eof()  # the client has refused

    def receive(self) -> bytes:
        return self._outgoing.read(self._piece)


def asked(server: Server, roots: bytes, name: str = NAME) -> datetime:
    return valid_until(cast("Stream", server), roots.decode(), name)


def test_the_end_of_the_certificate_that_the_other_side_has(tmp_path: Path) -> None:
    authority = Authority()
    assert asked(Server(tmp_path, authority, piece=1000), authority.root) > datetime.now(UTC)


def test_another_name_or_another_root_is_refused(tmp_path: Path) -> None:
    authority = Authority()
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(Server(tmp_path, authority, piece=1000), authority.root, "injector.pymesh-system.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(Server(tmp_path, Authority(), piece=1000), authority.root)


def test_a_handshake_in_too_many_pieces_is_given_up(tmp_path: Path) -> None:
    authority = Authority()
    with pytest.raises(ssl.SSLError, match="does not end"):
        asked(Server(tmp_path, authority, piece=1), authority.root)
