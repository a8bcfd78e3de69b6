"""The mesh's own pods, as manifests."""

from typing import Any

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.local import state, system


def manifests(*running: str) -> dict[tuple[str, str], dict[str, Any]]:
    made = system.manifests(state.State("test"), list(running))
    return {(item["kind"], item["metadata"]["name"]): item for item in made}


def test_pilot_and_citadel_share_a_pod() -> None:
    found = manifests("pilot", "citadel")
    assert [name for kind, name in found if kind == "Pod"] == ["pymesh-controlplane"]
    (container,) = found["Pod", "pymesh-controlplane"]["spec"]["containers"]
    assert container["command"][:3] == ["pymesh-controlplane", "--components", "pilot,citadel"]


@pytest.mark.parametrize("name", ["policy", "telemetry"])
def test_the_services_of_sidecars_have_pods_accounts_and_services_of_their_own(name: str) -> None:
    """With a token and the root for a certificate, and the label by which sidecars know that TLS is spoken there."""
    found = manifests(name)
    assert {kind for kind, _ in found} == {"Namespace", "ServiceAccount", "Service", "PeerAuthentication", "Pod"}
    pod = found["Pod", name]
    assert pod["metadata"]["labels"] == {
        "app": name,
        "sidecar.istio.io/inject": "false",
        "security.istio.io/tlsMode": "istio",
    }
    assert pod["spec"]["serviceAccountName"] == name
    (container,) = pod["spec"]["containers"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {
        "/var/run/secrets/tokens",
        "/var/run/secrets/istio",
    }
    writable = {mount["name"] for mount in container["volumeMounts"] if not mount["readOnly"]}
    assert writable == ({"last-good"} if name == "policy" else set())
    ports = {port["name"]: port["port"] for port in found["Service", name]["spec"]["ports"]}
    assert ports == {f"grpc-{name}": 9091, "http-pages": 15014}
    modes = found["PeerAuthentication", name]["spec"]
    assert (modes["mtls"], modes["portLevelMtls"]) == ({"mode": "STRICT"}, {"15014": {"mode": "DISABLE"}})


def test_parts_can_be_left_out() -> None:
    """All but one, none, and one that there is not."""
    assert "policy" not in system.components(["policy"])
    assert set(system.components([])) == set(system.PARTS)
    with pytest.raises(MeshError, match="--without fun: there is no such component; there are pilot, citadel, policy"):
        system.components(["fun"])
    with pytest.raises(MeshError, match="leaves no component"):
        system.components(system.PARTS)
