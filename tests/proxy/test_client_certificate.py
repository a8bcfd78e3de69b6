"""Who called: what a server behind us reads of it is our word."""

from dataclasses import replace

import pytest

from pymesh_proxy import client_certificate, forwarding
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.model import ForwardClientCert, HttpManager
from pymesh_proxy.transport.facts import Facts
from tests.support.heads import read_request

MANAGER = HttpManager("test", routes=None, rds="r")
PLAIN = Facts("inbound", "10.0.0.7:41000", "10.0.0.8:9080")
CALLER = "spiffe://cluster.local/ns/default/sa/productpage"
MUTUAL = replace(
    PLAIN, tls=True, peer=CALLER, own="spiffe://cluster.local/ns/default/sa/reviews", peer_certificate_hash="ab12",
    peer_subject='CN="x"\r\nInjected: \\y,O=ä',
)  # fmt: skip
GIVEN = b"By=x;URI=spiffe://evil"
OURS = b"By=spiffe://cluster.local/ns/default/sa/reviews;Hash=ab12"


def prepared(*lines: bytes, manager: HttpManager, facts: Facts) -> Head:
    head = read_request(*lines)
    forwarding.prepare_request(head, manager, facts)
    return head


@pytest.mark.parametrize(
    ("mode", "plain", "mutual"),
    [
        (ForwardClientCert.SANITIZE, None, None),
        (ForwardClientCert.FORWARD_ONLY, None, GIVEN),
        (ForwardClientCert.ALWAYS_FORWARD_ONLY, GIVEN, GIVEN),
        (ForwardClientCert.APPEND_FORWARD, None, GIVEN + b"," + OURS),
        (ForwardClientCert.SANITIZE_SET, None, OURS),
    ],
)
def test_the_modes_of_xfcc(mode: ForwardClientCert, plain: bytes | None, mutual: bytes | None) -> None:
    manager = replace(MANAGER, forward_client_cert=mode)
    line = b"X-Forwarded-Client-Cert: " + GIVEN
    for facts, expected in ((PLAIN, plain), (MUTUAL, mutual)):
        head = prepared(line, manager=manager, facts=facts)
        assert head.get(b"x-forwarded-client-cert") == expected
        assert head.fields().lower().count(b"x-forwarded-client-cert") == (expected is not None)


@pytest.mark.parametrize("mode", [ForwardClientCert.APPEND_FORWARD, ForwardClientCert.SANITIZE_SET])
def test_the_callers_own_word_is_never_needed(mode: ForwardClientCert) -> None:
    head = prepared(manager=replace(MANAGER, forward_client_cert=mode), facts=MUTUAL)
    assert head.get(b"x-forwarded-client-cert") == OURS


def test_a_connection_header_does_not_take_our_word_away() -> None:
    manager = replace(MANAGER, forward_client_cert=ForwardClientCert.SANITIZE_SET)
    lines = (b"Connection: x-request-id", b"X-Request-Id: theirs", b"X-Forwarded-Client-Cert: " + GIVEN)
    head = prepared(*lines, manager=manager, facts=MUTUAL)
    assert head.get(b"x-forwarded-client-cert") == OURS
    assert head.has(b"x-request-id")


def test_an_element_says_what_it_is_asked_to_and_breaks_no_line() -> None:
    element = client_certificate.element(MUTUAL, frozenset({"subject", "uri"}))
    assert element == OURS + rb';Subject="CN=\"x\"??Injected: \\y,O=?";URI=' + CALLER.encode()
    named = replace(MUTUAL, peer_dns=("a.example", "b.example"))
    element = client_certificate.element(named, frozenset({"dns"}))
    assert element == OURS + b";DNS=a.example;DNS=b.example"
    nameless = replace(MUTUAL, own="")
    assert client_certificate.element(nameless, frozenset()) == b"Hash=ab12"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (CALLER, CALLER),
        ("https://a/b?c=d", '"https://a/b?c=d"'),
        (f"spiffe://a;URI={CALLER}", f'"spiffe://a;URI={CALLER}"'),
        (f'spiffe://a",By=b;URI={CALLER}', rf'"spiffe://a\",By=b;URI={CALLER}"'),
        ("spiffe://a\r\nx-user: admin", '"spiffe://a??x-user: admin"'),
        ("spiffe://\xe4", '"spiffe://?"'),
        ("", ""),
    ],
)
def test_no_name_of_a_certificate_is_read_as_more_than_that(name: str, written: str) -> None:
    element = client_certificate.element(replace(MUTUAL, peer=name, peer_dns=(name,)), frozenset({"uri", "dns"}))
    assert element == OURS + f";URI={written};DNS={written}".encode()
