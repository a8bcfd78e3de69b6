"""x-forwarded-client-cert: who called is for us to say, not for the caller. Pure.

Source: Envoy, HTTP header manipulation, x-forwarded-client-cert.
"""

import re
from functools import lru_cache
from typing import Final

from pymesh_proxy.codec.headers import Head, quotable
from pymesh_proxy.config.model import ForwardClientCert, HttpManager
from pymesh_proxy.transport.facts import Facts

XFCC: Final = b"x-forwarded-client-cert"
# What needs no quotes: printable, and none of what separates values and elements. A certificate's names may hold
# anything that an authority has signed, line breaks included.
_PLAIN: Final = re.compile(r'[^\x00-\x20",;=\\\x7f-\U0010ffff]*')
# An attribute of an enumeration costs 40 ns.
_ALWAYS: Final = ForwardClientCert.ALWAYS_FORWARD_ONLY
_FORWARD: Final = ForwardClientCert.FORWARD_ONLY
_APPEND: Final = ForwardClientCert.APPEND_FORWARD
_SET: Final = ForwardClientCert.SANITIZE_SET


def tell(request: Head, manager: HttpManager, facts: Facts) -> None:
    """Take away, keep or add to what `request` says of its caller, as `manager` has it."""
    mode = manager.forward_client_cert
    if mode is _ALWAYS or (mode is _FORWARD and facts.peer):
        return
    if mode is _APPEND and facts.peer:
        before = request.get(XFCC)
        own = element(facts, manager.client_cert_details)
        request.set(XFCC, own if before is None else b"%b,%b" % (before, own))
        return
    request.remove(XFCC)
    if mode is _SET and facts.peer:
        request.set(XFCC, element(facts, manager.client_cert_details))


def element(facts: Facts, details: frozenset[str]) -> bytes:
    """`By=…;Hash=…;Subject="…";URI=…` for the peer of a connection."""
    # All of `facts` as a key would be hashed and compared field by field, which costs more than to write the element.
    return _element(facts.own, facts.peer_certificate_hash, facts.peer_subject, facts.peer, facts.peer_dns, details)


@lru_cache(maxsize=1024)
def _element(  # noqa: PLR0917 - keywords would make its cache slower
    own: str, digest: str, subject: str, peer: str, dns: tuple[str, ...], details: frozenset[str]
) -> bytes:
    parts = [f"By={_value(own)}"] if own else []
    parts.append(f"Hash={digest}")
    if "subject" in details:
        parts.append(f'Subject="{quotable(subject)}"')
    if "uri" in details:
        parts.append(f"URI={_value(peer)}")
    if "dns" in details:
        parts += [f"DNS={_value(name)}" for name in dns]
    return ";".join(parts).encode()


def _value(text: str) -> str:
    """`text` as a value of an element, in quotes where it would be read as more than one."""
    return text if _PLAIN.fullmatch(text) else f'"{quotable(text)}"'
