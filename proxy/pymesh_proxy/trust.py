"""Which claims of a request are believed, and what it may ask of the proxy: by where it comes from. Pure.

A request is *internal* if it comes straight from an address that the configuration names so (`internal_address_config`;
nobody is, where it names none), and *at the edge* if it is not internal and the connection's own address is the
client's (`use_remote_address`). Only internal requests may ask for retries, timeouts and traces; at the edge nothing is
believed that a proxy of ours would have said, and the client's address goes on as x-envoy-external-address.

Source: Envoy, ConnectionManagerUtility::mutateRequestHeaders; the page on x-envoy-internal and x-forwarded-for.
"""

from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.model import HttpManager
from pymesh_proxy.transport.facts import Facts

_INTERNAL: Final = b"x-envoy-internal"
_EXTERNAL: Final = b"x-envoy-external-address"
# What only internal requests may ask for.
_ASKED: Final = frozenset(
    {
        b"x-envoy-expected-rq-timeout-ms",
        b"x-envoy-force-trace",
        b"x-envoy-hedge-on-per-try-timeout",
        b"x-envoy-ip-tags",
        b"x-envoy-max-retries",
        b"x-envoy-original-url",
        b"x-envoy-retriable-header-names",
        b"x-envoy-retriable-status-codes",
        b"x-envoy-retry-grpc-on",
        b"x-envoy-retry-on",
        b"x-envoy-upstream-alt-stat-name",
        b"x-envoy-upstream-rq-per-try-timeout-ms",
        b"x-envoy-upstream-rq-timeout-alt-response",
        b"x-envoy-upstream-rq-timeout-ms",
        _INTERNAL,
    }
)
# What, besides, only a proxy of ours may say.
_SAID: Final = _ASKED | {
    b"x-envoy-attempt-count",
    b"x-envoy-decorator-operation",
    b"x-envoy-downstream-service-cluster",
    b"x-envoy-downstream-service-node",
    _EXTERNAL,
    b"x-envoy-original-host",
    b"x-envoy-original-path",
    b"x-envoy-upstream-stream-duration-ms",
}
_FORWARDED_FOR: Final = b"x-forwarded-for"
# An IPv6 address in characters, with an IPv4 address at its end.
_LONGEST_ADDRESS: Final = 45


def believe(request: Head, manager: HttpManager, facts: Facts) -> None:
    """Take from `request` what its sender may not say, and say ourselves whence it came."""
    edge = manager.use_remote_address
    if _is_internal(request, manager, facts):
        request.remove_all(frozenset((_INTERNAL,)))
        request.set(_INTERNAL, b"true")
    elif edge:
        request.remove_all(_SAID)
        request.set(_EXTERNAL, _client(request, manager, facts))
    else:
        request.remove_all(_ASKED)
    if edge:
        if manager.xff_num_trusted_hops == 0:
            request.set(b"x-forwarded-proto", b"https" if facts.tls else b"http")
        if not manager.skip_xff_append:
            address = _address(facts).encode()
            before = request.get(_FORWARDED_FOR)
            request.set(_FORWARDED_FOR, address if before is None else b"%b,%b" % (before, address))


def _address(facts: Facts) -> str:
    """The address that the connection comes from."""
    return facts.remote.rpartition(":")[0].strip("[]")


def client(request: Head, manager: HttpManager, facts: Facts) -> str:
    """The address of whom a request comes from, once `believe` is done with it: the connection's own at the edge, else
    the one that the proxy before us has seen; behind trusted proxies, that which the farthest of them has.
    """
    before = manager.xff_num_trusted_hops
    if not manager.use_remote_address:
        before += 1
    elif before and not manager.skip_xff_append:
        before += 1  # the connection's own is the last one by now
    return _named(request.get(_FORWARDED_FOR), before) or _address(facts)


def _client(request: Head, manager: HttpManager, facts: Facts) -> bytes:
    """The address of the client at the edge, before anything is appended."""
    return (_named(request.get(_FORWARDED_FOR), manager.xff_num_trusted_hops) or _address(facts)).encode()


def _named(said: bytes | None, place: int) -> str:
    """The address that is the last but so many in x-forwarded-for, 1 for the last; empty where none is there."""
    if said is None or not place:
        return ""
    hops = said.rsplit(b",", place)
    return _canonical(hops[-place].strip()) if len(hops) >= place else ""


@lru_cache(maxsize=1024)
def _canonical(text: bytes) -> str:
    """An address in its usual spelling, remembered, since connections say the same again and again; empty for none."""
    if len(text) > _LONGEST_ADDRESS or b"%" in text:
        return ""
    try:
        return str(ip_address(text.decode("ascii")))
    except ValueError:
        return ""


def _is_internal(request: Head, manager: HttpManager, facts: Facts) -> bool:
    if not manager.internal_networks:
        return False
    said = request.get(_FORWARDED_FOR)
    if manager.use_remote_address:
        if said is not None:  # it has come a longer way
            return False
        text = _address(facts)
    else:
        if said is None or b"," in said or manager.xff_num_trusted_hops:
            return False
        text = said.decode("latin-1")
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return any(address.version == network.version and address in network for network in manager.internal_networks)
