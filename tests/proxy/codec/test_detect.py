"""What the first bytes say, for ClientHellos of a real TLS library and for everything else, at every split point."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.codec.detect import MAX_HELLO_RECORDS, MAX_PEEK, OPAQUE, Detection, Protocol, detect

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def client_hello(server_name: str | None = None, alpn: tuple[str, ...] = ()) -> bytes:
    """The first flight of OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same handshake message, in records of `size` bytes."""
    message = hello[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def hello_with(extensions: bytes) -> bytes:
    """A ClientHello with just these extensions."""
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def server_name(name: bytes) -> bytes:
    entry = b"\x00" + len(name).to_bytes(2, "big") + name
    return extension(0, len(entry).to_bytes(2, "big") + entry)


PROTOCOLS = ("istio-peer-exchange", "istio", "h2", "http/1.1")
LARGE = tuple(f"protocol-{number:03}" for number in range(120))


@pytest.mark.parametrize(
    ("name", "alpn"),
    [
        (None, ()),
        ("reviews.default.svc.cluster.local", ()),
        (None, PROTOCOLS),
        ("outbound_.9080_._.reviews.default.svc.cluster.local", ("istio",)),
    ],
)
def test_a_client_hello_tells_its_server_name_and_protocols(name: str | None, alpn: tuple[str, ...]) -> None:
    hello = client_hello(name, alpn)
    expected = Detection(Protocol.TLS, name or "", alpn)
    for end in range(len(hello)):
        assert detect(hello[:end]) is None
        assert detect(hello[:end], ended=True) == OPAQUE
    assert detect(hello) == expected
    assert detect(hello + b"\x17\x03\x03 and more") == expected
    assert expected.application_protocols == alpn


@pytest.mark.parametrize("size", [40, 100, 1000])
def test_a_large_client_hello_split_over_records(size: int) -> None:
    hello = in_records(client_hello("Reviews.Example", LARGE), size)
    assert len(hello) > 1700
    expected = Detection(Protocol.TLS, "reviews.example", LARGE)
    for end in range(len(hello)):
        assert detect(hello[:end]) is None, end
    assert detect(hello) == expected


def test_a_client_hello_in_crumbs_is_opaque() -> None:
    """Whoever sends a record a byte wants something else than TLS from us."""
    crumbs = in_records(client_hello("a.example"), 1)
    assert detect(crumbs) == OPAQUE
    assert detect(crumbs[: 6 * MAX_HELLO_RECORDS]) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x16\x02\x00\x00\x05hello", "version 2"),
        (b"\x16\x03\x01\x00\x00", "an empty record"),
        (b"\x16\x03\x01\x40\x01", "a record of more than 2^14 bytes"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "a ServerHello"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "a message of 16 MiB"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x05x\x17\x03\x01\x00\x04", "another kind of record in the middle"),
        (b"\x16\x03\x01\x00\x08\x01\x00\x00\x04abcd", "a message that ends before its own fields do"),
        (hello_with(b"\x00\x00\x00\x05\x00"), "an extension that is longer than the rest"),
        (hello_with(server_name(b"\xff\xfe")), "a server name that is not ASCII"),
        (hello_with(server_name(b"a") + server_name(b"b")), "two server names"),
        (hello_with(extension(16, b"\x00\x03\x05h2")), "a protocol name that is longer than the rest"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "an alert"),
        (b"\x17\x03\x03\x00\x01x", "application data"),
        (b"\x80\x2e\x01\x03\x01", "SSL 2"),
    ],
)
def test_what_only_looks_like_tls_is_opaque(data: bytes, why: str) -> None:
    assert detect(data) == OPAQUE, why


def test_unusual_but_well_formed_client_hellos() -> None:
    bare = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    message = b"\x01" + len(bare).to_bytes(3, "big") + bare
    assert detect(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message) == Detection(Protocol.TLS)
    assert detect(hello_with(b"")) == Detection(Protocol.TLS)
    assert detect(hello_with(extension(0x4A4A, b""))) == Detection(Protocol.TLS)  # GREASE, RFC 8701
    assert detect(hello_with(extension(0, b"\x00\x04\x05\x00\x01x"))) == Detection(Protocol.TLS)  # no host_name


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"\r\nGET / HTTP/1.1\r\n",
        b"POST /a?b=c HTTP/1.0\r\n",
        b"PROPFIND * HTTP/1.1\r\n",
        b"PRI / HTTP/1.1\r\n",
        b"P / HTTP/1.1\r\n",
        b"x-own!method http://a/b HTTP/1.1\r\n",
        b"GET / HTTP/1.1\n",
        b"GET /" + b"a" * 12_000 + b" HTTP/1.1\r\n",
    ],
)
def test_a_request_line_is_http_1(line: bytes) -> None:
    for end in [*range(min(len(line), 300)), len(line) - 1]:
        assert detect(line[:end]) is None, line[:end]
        assert detect(line[:end], ended=True) == OPAQUE
    found = detect(line)
    assert found == Detection(Protocol.HTTP1)
    assert found.application_protocols == ("http/1.1", "http/1.0")
    assert detect(line + b"\x00\xff anything") == found


def test_the_preface_is_http_2() -> None:
    for end in range(len(PREFACE)):
        assert detect(PREFACE[:end]) is None
    found = detect(PREFACE + b"\x00\x00\x00\x04\x00")
    assert found == Detection(Protocol.HTTP2)
    assert found.application_protocols == ("h2c",)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"EHLO mail.example.com\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"USER a HTTP\r\n",
        b"GET /\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET / HTTP/1.10\r\n",
        b"GET  / HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n",
        b"\n",
        b"G" * 65,
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\n",
        b"GET /" + b"a" * MAX_PEEK + b" HTTP/1.1\r\n",
        b"\x00\x00\x00\x5a\x03\x00\x00\x00",
    ],
)
def test_anything_else_is_opaque(data: bytes) -> None:
    assert detect(data) == OPAQUE
    assert OPAQUE.application_protocols == ()


def test_silence_says_nothing() -> None:
    assert detect(b"") is None
    assert detect(b"", ended=True) == OPAQUE


ALMOST = [
    b"GET\t/a HTTP/1.1\r\n",
    b"GET  /a HTTP/1.1\r\n",
    b"GET /a HTTP/1.1 \r\n",
    b"GET /a HTTP/1.2\r\n",
    b"GET /a HTTP/01.1\r\n",
    b"GET /a\r\n",
    b"GET /\xe4 HTTP/1.1\r\n",
    b"  GET /a HTTP/1.1\r\n",
    b"\n\nGET /a HTTP/1.1\r\n",
    b"GET\x0b/a HTTP/1.1\r\n",
    b"FOO\t/a http/1.1\r\n",
    b"POST /" + b"a" * MAX_PEEK + b" HTTP/1.1\r\n",
]


@pytest.mark.parametrize("data", ALMOST)
def test_towards_our_own_app_what_resembles_a_request_is_one(data: bytes) -> None:
    assert detect(data).protocol is Protocol.OPAQUE
    verdicts = [detect(data[:end], wary=True) for end in range(len(data) + 1)]
    known = [verdict for verdict in verdicts if verdict is not None]
    assert known
    assert {verdict.protocol for verdict in known} == {Protocol.HTTP1}
    assert verdicts[-1] is not None


@pytest.mark.parametrize(
    "data",
    [b"*1\r\n$4\r\nPING\r\n", b"HELO me\r\n", b"get key\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"GETTER x\r\n"],
)
def test_other_protocols_stay_opaque_for_the_wary(data: bytes) -> None:
    verdict = detect(data, wary=True)
    assert verdict is not None
    assert verdict.protocol is Protocol.OPAQUE


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_wary_verdict_stands_too(data: bytes, cut: int) -> None:
    early = detect(data[:cut], wary=True)
    if early is not None:
        assert detect(data, wary=True) == early
