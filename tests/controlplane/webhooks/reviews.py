"""Admission reviews as an API server writes them, and its side of the connection."""

import asyncio
import base64
import json
import ssl
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
HOST = "injector.pymesh-system.svc"

# By kind: group, version and the name that rules have for it.
_RESOURCES = {
    "Pod": ("", "v1", "pods"),
    "ConfigMap": ("", "v1", "configmaps"),
    "VirtualService": ("networking.istio.io", "v1", "virtualservices"),
    "DestinationRule": ("networking.istio.io", "v1", "destinationrules"),
    "Gateway": ("networking.istio.io", "v1", "gateways"),
    "PeerAuthentication": ("security.istio.io", "v1", "peerauthentications"),
    "AuthorizationPolicy": ("security.istio.io", "v1", "authorizationpolicies"),
    "RequestAuthentication": ("security.istio.io", "v1", "requestauthentications"),
    "Sidecar": ("networking.istio.io", "v1", "sidecars"),
    "Check": ("policy.pymesh.io", "v1alpha1", "checks"),
    "RateLimit": ("policy.pymesh.io", "v1alpha1", "ratelimits"),
}


def request(kind: str, new: Object | None, old: Object | None = None, **more: object) -> Object:
    """A request about `new`: CREATE, or UPDATE of `old`, or DELETE of `old` where there is no `new`."""
    group, version, resource = _RESOURCES[kind]
    metadata = (new or old or {}).get("metadata") or {}
    return {
        "uid": UID,
        "kind": {"group": group, "version": version, "kind": kind},
        "resource": {"group": group, "version": version, "resource": resource},
        "requestKind": {"group": group, "version": version, "kind": kind},
        "requestResource": {"group": group, "version": version, "resource": resource},
        "name": metadata.get("name", ""),
        "namespace": metadata.get("namespace", "default"),
        "operation": "DELETE" if new is None else "CREATE" if old is None else "UPDATE",
        "userInfo": {"username": "jane", "groups": ["system:authenticated"]},
        "object": new,
        "oldObject": old,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **more,
    }


def review(asked: Object) -> bytes:
    """The body of the call."""
    return json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": asked}).encode()


def patch_of(body: bytes) -> list[Object]:
    """The operations in an answer."""
    operations: list[Object] = json.loads(base64.b64decode(json.loads(body)["response"]["patch"]))
    return operations


@dataclass
class Caller:
    """One connection of an API server: HTTP/1.1 over TLS that is kept, as Go's client does."""

    port: int
    root: str
    host: str = HOST
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None, repr=False)

    @property
    def certificate(self) -> bytes:
        """What the server has shown on this connection, DER."""
        assert self._streams is not None
        found = self._streams[1].get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(found, bytes)
        return found

    async def connect(self) -> "Caller":
        """Open the connection, the server's certificate held against the root and the host."""
        context = ssl.create_default_context(cadata=self.root)
        context.set_alpn_protocols(["http/1.1"])
        self._streams = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname=self.host, limit=2**24
        )
        return self

    async def send(self, data: bytes) -> None:
        """Send these very bytes."""
        assert self._streams is not None
        self._streams[1].write(data)
        await self._streams[1].drain()

    async def post(self, path: str, body: bytes, media_type: str = "application/json") -> tuple[int, Object]:
        """Status and body of the answer."""
        head = f"POST {path} HTTP/1.1\r\nhost: {self.host}:443\r\ncontent-type: {media_type}\r\n"
        await self.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        return await self.answer()

    async def answer(self) -> tuple[int, Object]:
        """Read an answer."""
        assert self._streams is not None
        head = (await self._streams[0].readuntil(b"\r\n\r\n")).decode()
        length = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
        return int(head.split(" ")[1]), json.loads(await self._streams[0].readexactly(length))

    async def at_end(self) -> bool:
        """Wait until the server has closed; whether it sent nothing more."""
        assert self._streams is not None
        try:
            return await self._streams[0].read() == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        """Let go of the connection."""
        assert self._streams is not None
        self._streams[1].close()
