"""One call of a webhook: HTTPS to the Service that its configuration names, trusted by its `caBundle` alone."""

import asyncio
import base64
import binascii
import ssl
from dataclasses import dataclass
from typing import Any

import h11
import msgspec

from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object

# Bytes of an answer.
LARGEST = 3 * 1024 * 1024


class CallError(Exception):
    """A webhook that gave no answer which could be used."""


@dataclass(frozen=True, slots=True)
class Called:
    """The JSON value that a webhook answered with."""

    review: Any


async def call(cluster: Cluster, webhook: Object, review: Object) -> Called:
    """POST a review.

    Raises:
        CallError: no such Service, not reachable, not trusted, not 200, too slow, no JSON.
    """
    service = webhook["clientConfig"].get("service")
    if not service:
        raise CallError("failed to call webhook: only Services are called by this server")
    seconds = webhook.get("timeoutSeconds", 10)
    server, port = f"{service['name']}.{service['namespace']}.svc", service.get("port", 443)
    target = f"{service.get('path', '/')}?timeout={seconds}s"
    url = f"https://{server}:{port}{target}"
    try:
        context = _trust(webhook["clientConfig"].get("caBundle", ""))
        there = _address(cluster, service["namespace"], service["name"], port)
        async with asyncio.timeout(seconds):
            body = await _post(there, context, server, target, msgspec.json.encode(review))
        return Called(msgspec.json.decode(body))
    except TimeoutError:
        raise CallError(f'failed to call webhook: Post "{url}": context deadline exceeded') from None
    except ssl.SSLCertVerificationError as error:
        raise CallError(f'failed to call webhook: Post "{url}": tls: failed to verify certificate: x509: '
                        f"{error.verify_message}") from None  # fmt: skip
    except (OSError, ValueError, h11.RemoteProtocolError) as error:
        raise CallError(f'failed to call webhook: Post "{url}": {error}') from None


def _trust(bundle: str) -> ssl.SSLContext:
    try:
        text = base64.b64decode(bundle, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise CallError(f"unable to load root certificates: {error}") from None
    # Without a bundle a real server trusts its machine's roots, none of which signs for a Service.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if text:
            context.load_verify_locations(cadata=text)
    except ssl.SSLError:
        raise CallError("unable to load root certificates: unable to parse bytes as PEM block") from None
    return context


def _address(cluster: Cluster, namespace: str, name: str, port: int) -> tuple[str, int]:
    """Where a Service's port leads: by the Service itself, and then by the table of the test."""
    service = cluster.store.get(("", "services"), namespace, name)
    if service is None:
        raise CallError(f'failed to call webhook: service "{name}" not found')
    if all(each["port"] != port for each in service["spec"].get("ports") or ()):
        raise CallError(f'failed to call webhook: no service port {port} found for service "{name}"')
    if (there := cluster.routes.get((namespace, name, port))) is None:
        raise ConnectionRefusedError(f"dial tcp {service['spec']['clusterIP']}:{port}: connect: connection refused")
    return there


async def _post(there: tuple[str, int], tls: ssl.SSLContext, server: str, target: str, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*there, ssl=tls, server_hostname=server)
    try:
        connection = h11.Connection(h11.CLIENT)
        headers = [
            ("host", server), ("content-type", "application/json"), ("accept", "application/json, */*"),
            ("user-agent", "kube-apiserver-admission"), ("content-length", str(len(body))), ("connection", "close"),
        ]  # fmt: skip
        for event in (
            h11.Request(method="POST", target=target, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            writer.write(connection.send(event) or b"")
        await writer.drain()
        return await _answer(connection, reader)
    finally:
        writer.close()


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    body, status = b"", 0
    while not isinstance(event := connection.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) > LARGEST:
                raise CallError("failed to call webhook: the answer is too large")
    if not 200 <= status < 300:
        raise CallError(f"failed to call webhook: the server responded with status code {status}: {body[:200]!r}")
    return body
