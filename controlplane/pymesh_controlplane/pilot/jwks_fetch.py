"""How the keys of an issuer are fetched: one GET, or two where the issuer says itself where they are.

Answers are read up to MAX_BYTES and never shown to anybody: they may be anything. The library comes with the client of
the Kubernetes API.

Source: OpenID Connect Discovery 1.0, section 4; RFC 8414 section 3
"""

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pymesh.jwks import MAX_BYTES, strict_json
from pymesh.resources.istio.request_authentication import KeySource
from pymesh_controlplane.pilot.jwks import FetchError

if TYPE_CHECKING:  # it takes 7 MB and 0.2 s, and most meshes fetch no keys
    import httpx2

DISCOVERY: Final = "/.well-known/openid-configuration"
# An address may have moved, and may have moved again.
MAX_REDIRECTS: Final = 3
# Characters of an address.
MAX_ADDRESS: Final = 2048


async def fetch(source: KeySource, within: float) -> bytes:
    """The text of the key set; two answers together take `within` seconds at most.

    Raises:
        FetchError: it could not be fetched; with the reason.
    """
    import httpx2

    try:
        async with (
            asyncio.timeout(within),
            httpx2.AsyncClient(follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=within) as client,
        ):
            return await _get(client, source.uri or await _discovered(client, source.issuer))
    except TimeoutError:
        raise FetchError(f"no answer within {within:g} s") from None


async def _discovered(client: "httpx2.AsyncClient", issuer: str) -> str:
    address = issuer.removesuffix("/") + DISCOVERY
    try:
        said = strict_json(await _get(client, address))
    except ValueError as error:
        raise FetchError(f"{address}: {error}") from None
    found = said.get("jwks_uri")
    if not isinstance(found, str):
        raise FetchError(f"{address} does not say where the keys are (jwks_uri)")
    if said.get("issuer") != issuer:  # discovery 4.3: otherwise it speaks of somebody else
        raise FetchError(f"{address} speaks of another issuer")
    return found


async def _get(client: "httpx2.AsyncClient", address: str) -> bytes:
    import httpx2

    scheme = urlsplit(address).scheme
    if scheme not in {"http", "https"} or len(address) > MAX_ADDRESS:
        raise FetchError(f"the address of the keys is not http or https, or longer than {MAX_ADDRESS} characters")
    try:
        async with client.stream("GET", address, headers={"accept": "application/json"}) as answer:
            if scheme == "https" and answer.url.scheme != "https":
                raise FetchError(f"{address} leads to an address without TLS")
            if answer.status_code != 200:
                raise FetchError(f"{address} answered {answer.status_code}")
            return await _read(answer, address)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise FetchError(f"{address}: {error or type(error).__name__}") from None


async def _read(answer: "httpx2.Response", address: str) -> bytes:
    found = bytearray()
    async for piece in answer.aiter_bytes():
        found += piece
        if len(found) > MAX_BYTES:
            raise FetchError(f"{address}: more than {MAX_BYTES} bytes")
    return bytes(found)
