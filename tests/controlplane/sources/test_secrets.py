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
