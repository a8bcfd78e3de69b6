"""Which Secrets a world needs."""

import pytest

from pymesh_controlplane.sources.secrets import wanted
from tests.controlplane.pilot.worlds import pod, world_of


def gateway(tls: str, selector: str = "{app: front}", name: str = "front") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {selector}
  servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ["*"], tls: {tls}}}]
"""


SIMPLE = "{mode: SIMPLE, credentialName: cert}"


def needed(*texts: str) -> list[tuple[str, str]]:
    return sorted(wanted(world_of("---".join(texts))))


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        (SIMPLE, [("default", "cert")]),
        ("{mode: MUTUAL, credentialName: cert}", [("default", "cert"), ("default", "cert-cacert")]),
        ("{mode: PASSTHROUGH}", []),
        ("{mode: ISTIO_MUTUAL}", []),
    ],
)
def test_they_are_where_the_pods_of_the_gateway_are(tls: str, expected: list[tuple[str, str]]) -> None:
    """Not where the Gateway is written: whoever writes one could otherwise have any Secret of his namespace served."""
    assert needed(gateway(tls), pod("front-a", "10.244.0.9", "front", mesh=False)) == expected


def test_a_pod_with_a_sidecar_is_no_gateway() -> None:
    assert needed(gateway(SIMPLE), pod("front-a", "10.244.0.9", "front")) == []


def test_a_gateway_for_any_pod_is_served_by_those_of_the_mesh() -> None:
    assert needed(gateway(SIMPLE, "{}"), pod("other-a", "10.244.0.9", "other", mesh=False)) == [
        ("pymesh-system", "cert")
    ]


def test_what_two_gateways_name_is_asked_for_once() -> None:
    there = pod("front-a", "10.244.0.9", "front", mesh=False)
    assert needed(gateway(SIMPLE), gateway(SIMPLE, name="other"), there) == [("default", "cert")]


def test_what_the_oldest_gateway_names_comes_first() -> None:
    """So that of too many the same ones are read after a restart, whatever names the later ones have."""

    def made(name: str, at: str) -> str:
        text = gateway(SIMPLE.replace("cert", f"{name}-cert"), name=name)
        return text.replace("namespace: shop}", f'namespace: shop, creationTimestamp: "{at}"}}')

    texts = made("a", "2026-03-01T00:00:00Z"), made("b", "2025-12-31T23:59:59Z"), made("c", "2026-01-01T00:00:00Z")
    there = pod("front-a", "10.244.0.9", "front", mesh=False)
    assert [name for _, name in wanted(world_of("---".join((*texts, there))))] == ["b-cert", "c-cert", "a-cert"]
