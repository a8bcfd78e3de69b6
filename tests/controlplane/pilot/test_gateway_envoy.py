"""A real Envoy as the gateway: listeners and certificates by ADS, in both variants, and a certificate that changes."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from pymesh.identity import Identity
from pymesh_controlplane.pilot.server import Origin
from pymesh_controlplane.pilot.translate import Translator
from tests.controlplane.galley.certificates import AUTHORITY, OTHER, WEB, tls_secret
from tests.controlplane.pilot.envoys import DELTA, bootstrap, free_port, running
from tests.controlplane.pilot.gateway_worlds import EDGE, gateway
from tests.controlplane.pilot.serving import always, serving
from tests.controlplane.pilot.worlds import world_of
from tests.support.certificates import Issued
from tests.support.waiting import eventually

pytestmark = pytest.mark.envoy

HOST = "www.example.com"
# Nobody is there whom Envoy could ask for a certificate of its own; for one it would wait a quarter of a minute.
PLAINTEXT = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plaintext, namespace: pymesh-system}
spec: {host: "*.local", trafficPolicy: {tls: {mode: DISABLE}}}
"""
NODE = {
    "id": "router~10.244.0.90~edge-0.pymesh-system~pymesh-system.svc.cluster.local",
    "cluster": "edge.pymesh-system",
    "metadata": {"NAMESPACE": "pymesh-system", "SERVICE_ACCOUNT": "default"},
}


async def shown(port: int) -> int:
    """Serial number of the certificate that Envoy shows; ConnectionError where there is none."""
    context = ssl.create_default_context(cadata=AUTHORITY.root.decode())
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HOST)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number
    finally:
        writer.close()


def serial(issued: Issued) -> int:
    return x509.load_pem_x509_certificates(issued.chain)[0].serial_number


@DELTA
async def test_an_envoy_gateway_ends_tls_with_what_pilot_gives_it(tmp_path: Path, api: str) -> None:
    front = await free_port()
    server = (
        f"{{port: {{number: {front}, name: www, protocol: HTTPS}}, hosts: [{HOST}],"
        " tls: {mode: SIMPLE, credentialName: www}}"
    )
    manifests = EDGE + PLAINTEXT + gateway(server)
    proved = Origin("10.244.0.90:4000", Identity("cluster.local", "pymesh-system", "default"))
    config = tmp_path / "envoy.json"
    async with serving(always(proved), Translator().snapshot) as pilot:
        pilot.feed.worlds.put_nowait(world_of(manifests + tls_secret(WEB, "www")))
        config.write_text(json.dumps({**bootstrap(pilot.port, api), "node": NODE}))
        async with running(config):
            assert await eventually(lambda: shown(front), what="a handshake", timeout=30) == serial(WEB)
            pilot.feed.worlds.put_nowait(world_of(manifests + tls_secret(OTHER, "www")))

            async def changed() -> bool:
                return await shown(front) == serial(OTHER)

            await eventually(changed, what="the new certificate")
    assert pilot.metrics.counted("pilot_total_xds_rejects") == 0
