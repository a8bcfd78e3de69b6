"""Which filter chain a connection gets: Envoy's order of criteria, the most specific first, and no way back."""

import gc
import weakref
from dataclasses import replace
from ipaddress import ip_network

import pytest

from pymesh_proxy import filter_chain
from pymesh_proxy.codec.detect import OPAQUE, Detection, Protocol
from pymesh_proxy.config.model import Direction, FilterChain, FilterChainMatch, Listener, TcpProxy
from pymesh_proxy.filter_chain import candidates, find_chain, inspected

HTTP = Detection(Protocol.HTTP1)
HTTP2 = Detection(Protocol.HTTP2)
HANDLER = TcpProxy("x", (("c", 1),))


def match(
    port: int | None = None,
    nets: str = "",
    names: tuple[str, ...] = (),
    transport: str = "",
    alpn: tuple[str, ...] = (),
) -> FilterChainMatch:
    return FilterChainMatch(port, tuple(map(ip_network, nets.split())), names, transport, alpn)


def listener(*, default: bool = True, **matches: FilterChainMatch) -> Listener:
    chains = tuple(FilterChain(name, found, HANDLER) for name, found in matches.items())
    return Listener(
        name="l", address="0.0.0.0", port=15001, direction=Direction.OUTBOUND, bind_to_port=True, use_original_dst=True,
        inspect_tls=True, inspect_http=True, inspect_timeout=1.0, inspect_timeout_continues=True, chains=chains,
        default_chain=FilterChain("default", FilterChainMatch(), HANDLER) if default else None,
    )  # fmt: skip


def tls(name: str = "", *alpn: str) -> Detection:
    return Detection(Protocol.TLS, name, alpn)


def found(where: Listener, detection: Detection, host: str = "10.0.0.1", port: int = 80) -> str | None:
    chain = find_chain(where, (host, port), detection)
    return None if chain is None else chain.name


def test_nothing_matches() -> None:
    assert found(listener(a=match(port=81)), HTTP) == "default"
    assert found(listener(default=False, a=match(port=81)), HTTP) is None
    assert found(listener(), HTTP) == "default"


def test_a_chain_without_criteria_takes_all_and_comes_before_the_default() -> None:
    assert found(listener(a=match()), HTTP) == "a"
    assert found(listener(a=match()), OPAQUE) == "a"


@pytest.mark.parametrize(("by_tls", "by_http"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_listener_knows_what_its_inspectors_tell(by_tls: bool, by_http: bool) -> None:
    where = replace(listener(), inspect_tls=by_tls, inspect_http=by_http)
    for detection, told in ((tls("a"), by_tls), (HTTP, by_http), (HTTP2, by_http), (OPAQUE, True)):
        assert inspected(where, detection) is (detection if told else OPAQUE)


def test_port_before_address() -> None:
    where = listener(port=match(port=80), address=match(nets="10.0.0.1/32"))
    assert found(where, HTTP) == "port"
    assert found(where, HTTP, port=81) == "address"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("10.1.2.3", "host"),
        ("10.1.2.4", "small"),
        ("10.1.3.3", "large"),
        ("11.1.2.3", "any"),
        ("fd00::1", "v6"),
        ("fd01::1", "any"),
    ],
)
def test_the_longest_prefix_wins(host: str, name: str) -> None:
    where = listener(
        host=match(nets="192.168.0.0/16 10.1.2.3/32"),
        large=match(nets="10.0.0.0/8"),
        small=match(nets="10.1.2.0/24"),
        v6=match(nets="fd00::/64"),
        any=match(),
    )
    assert found(where, OPAQUE, host) == name


@pytest.mark.parametrize(
    ("name", "chain"),
    [
        ("a.b.example.com", "exact"),
        ("x.b.example.com", "long"),
        ("x.example.com", "short"),
        ("x.y.z.example.com", "short"),
        ("example.com", "any"),
        ("xexample.com", "any"),
        ("", "any"),
    ],
)
def test_an_exact_name_before_the_longest_wildcard(name: str, chain: str) -> None:
    where = listener(
        short=match(names=("*.example.com",)),
        long=match(names=("*.b.example.com", "other")),
        exact=match(names=("other", "a.b.example.com")),
        any=match(),
    )
    assert found(where, tls(name)) == chain


def test_transport_protocol() -> None:
    where = listener(tls=match(transport="tls"), raw=match(transport="raw_buffer"))
    assert found(where, tls()) == "tls"
    assert [found(where, it) for it in (HTTP, HTTP2, OPAQUE)] == ["raw"] * 3


def test_the_clients_first_protocol_wins() -> None:
    where = listener(one=match(alpn=("http/1.1",)), two=match(alpn=("h2", "istio")), any=match())
    assert found(where, tls("", "h2", "http/1.1")) == "two"
    assert found(where, tls("", "http/1.1", "h2")) == "one"
    assert found(where, tls("", "spdy", "istio", "http/1.1")) == "two"
    assert found(where, tls("", "spdy")) == "any"
    assert found(where, tls()) == "any"


def test_http_is_matched_by_the_words_of_envoys_inspector() -> None:
    where = listener(http=match(alpn=("http/1.1", "h2c")), any=match())
    assert found(where, HTTP) == "http"
    assert found(where, HTTP2) == "http"
    assert found(where, OPAQUE) == "any"


def test_the_chains_of_an_inbound_listener() -> None:
    """Mesh TLS to us, the app's own TLS through, plaintext HTTP read, the rest opaque: as pilot sends them."""
    where = listener(
        mtls_http=match(port=9080, transport="tls", alpn=("istio-http/1.0", "istio-http/1.1")),
        mtls_tcp=match(port=9080, transport="tls", alpn=("istio-peer-exchange", "istio")),
        tls=match(port=9080, transport="tls"),
        http=match(port=9080, transport="raw_buffer", alpn=("http/1.0", "http/1.1", "h2c")),
        tcp=match(port=9080, transport="raw_buffer"),
    )
    cases = {
        "mtls_http": tls("x", "istio-http/1.1", "istio"),
        "mtls_tcp": tls("x", "istio-peer-exchange", "istio"),
        "tls": tls("x", "h2", "http/1.1"),
        "http": HTTP,
        "tcp": OPAQUE,
    }
    assert {name: found(where, detection, port=9080) for name, detection in cases.items()} == {
        name: name for name in cases
    }
    assert found(where, HTTP, port=9081) == "default"


def test_there_is_no_way_back() -> None:
    """The port is taken by a chain whose other criteria then fail: not the one that would have taken any port."""
    where = listener(port=match(port=80, transport="tls"), any=match(transport="raw_buffer"))
    assert found(where, HTTP, port=80) == "default"
    assert found(where, HTTP, port=81) == "any"
    where = listener(prefix=match(nets="10.0.0.0/8", names=("a",)), any=match())
    assert found(where, tls("b")) == "default"
    where = listener(name=match(names=("a.b",), alpn=("h2",)), wild=match(names=("*.b",)))
    assert found(where, tls("a.b", "http/1.1")) == "default"


def test_what_is_known_of_a_destination_is_bounded_and_goes_with_its_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_chain, "MAX_DESTINATIONS", 10)
    where = listener(a=match(port=80), b=match(port=81))
    for number in range(25):
        assert [chain.name for chain in candidates(where, (f"10.0.0.{number}", 80)).chains] == ["a"]
        assert len(filter_chain._candidates[where]) <= 10
    again = listener(b=match(port=80))
    assert [chain.name for chain in candidates(again, ("10.0.0.24", 80)).chains] == ["b"]
    gone = weakref.ref(where)
    del where
    gc.collect()
    assert gone() is None
