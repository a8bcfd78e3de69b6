"""RequestAuthentication: keys that can be believed, addresses that can be asked, headers that a token may write."""

from collections.abc import Container
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from pymesh.errors import ConfigError
from pymesh.jwks import key_set
from pymesh.names import RESERVED_HEADERS
from pymesh.resources.fields import seconds
from pymesh.resources.istio.request_authentication import JWTRule, RequestAuthentication
from pymesh.resources.resource import Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.galley.pods import Pods
from pymesh_controlplane.galley.selection import check_selection
from pymesh_controlplane.galley.supported import unsupported
from pymesh_controlplane.pilot import request_authentication
from pymesh_controlplane.pilot.model import Problem, World

# Seconds that pilot may wait for keys: it asks anew anyway, and a handful of issuers that never answer keep up others.
MAX_TIMEOUT: Final = 60.0


def check(resource: Resource[RequestAuthentication], world: World, pods: Pods) -> list[Problem]:
    """What is wrong with a RequestAuthentication."""
    findings = Findings(resource)
    check_selection(findings, resource, world, pods)
    if not resource.value.spec.jwt_rules:
        findings.warning("spec.jwtRules", "there are none: nobody's tokens are looked at because of it")
    first: dict[str, int] = {}
    places = {name for rule in resource.value.spec.jwt_rules for name in rule.token_headers}
    for index, rule in enumerate(resource.value.spec.jwt_rules):
        path = f"spec.jwtRules[{index}]"
        if first.setdefault(rule.issuer, index) != index:
            sentence = f"{rule.issuer} is named in jwtRules[{first[rule.issuer]}], too: what either takes is taken"
            findings.warning(f"{path}.issuer", sentence)
        _check_rule(findings, path, rule)
        _check_outputs(findings, path, rule, places)
    return findings.problems


def refused(resource: Resource[RequestAuthentication]) -> list[str]:
    """What a proxy would refuse of what pilot makes of the resource."""
    return unsupported(request_authentication.filters(request_authentication.believed((resource,), {})))


def _check_rule(findings: Findings, path: str, rule: JWTRule) -> None:
    if rule.jwks is not None and rule.jwks_uri is not None:
        findings.error(f"{path}.jwksUri", "there is jwks, too, with the keys themselves: write one of them")
    elif rule.jwks is not None:
        _check_keys(findings, f"{path}.jwks", rule.jwks)
    elif rule.jwks_uri is not None:
        _check_address(findings, f"{path}.jwksUri", rule.jwks_uri)
    else:
        _check_address(findings, f"{path}.issuer", rule.issuer, discovered=True)
    if not 0 < seconds(rule.timeout) <= MAX_TIMEOUT:
        findings.error(f"{path}.timeout", f"more than 0s, and at most {MAX_TIMEOUT:.0f}s")


def _check_keys(findings: Findings, path: str, text: str) -> None:
    try:
        found = key_set(text)
    except ConfigError as error:
        findings.error(path, str(error))
        return
    for refused in found.refused:
        findings.error(path, str(refused))
    for ignored in found.ignored:
        findings.warning(path, f"{ignored}: this key is not used")
    if not found.keys and not found.refused:
        findings.error(path, "there is no key in it that tokens could be verified with: no token would be good")


def _check_address(findings: Findings, path: str, text: str, *, discovered: bool = False) -> None:
    """What pilot is to ask: by `discovered`, an issuer that says itself where its keys are."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        findings.error(path, f"{text!r} is not an address: {error}")
        return
    if parts.scheme not in {"http", "https"} or not host:
        if discovered:
            sentence = "the issuer is no address that could be asked for its keys: write jwks or jwksUri"
        else:
            sentence = f"{text!r} is not an address: write https://HOST/PATH"
        findings.error(path, sentence)
        return
    if parts.username is not None or parts.password is not None:
        findings.error(path, "an address with a password in it would be shown to everybody: take it out")
    if _is_pilots_own(host):
        findings.error(path, f"{host} is the machine on which pilot runs, or says who that is: name the issuer's own")
    if parts.scheme == "http":
        findings.warning(
            path,
            "http: whoever is between pilot and the issuer can put in other keys, and pass for anybody: write https, "
            "or the keys themselves under jwks",
        )


def _is_pilots_own(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _check_outputs(findings: Findings, path: str, rule: JWTRule, places: Container[str]) -> None:
    """Headers that are written: no reserved one, none twice, and none of the `places` where tokens stand."""
    written: dict[str, str] = {}
    outputs = [(f"{path}.outputPayloadToHeader", rule.output_payload_to_header or "")]
    outputs += [
        (f"{path}.outputClaimToHeaders[{index}].header", item.header)
        for index, item in enumerate(rule.output_claim_to_headers)
    ]
    for here, header in outputs:
        name = header.lower()
        if name in RESERVED_HEADERS:
            findings.error(here, f"{header} is the proxy's own, or others are believed by it: choose another name")
        elif name and written.setdefault(name, here) != here:
            findings.error(here, f"{header} is written by {written[name]}, too: choose another name")
        elif name in places:
            findings.error(here, f"tokens stand in {header}, and what comes there is taken off first: choose another")
