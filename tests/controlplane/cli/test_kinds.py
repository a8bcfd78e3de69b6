"""The names of kinds on the command line."""

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli.kinds import kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("po", "Pod"),
        ("Pods", "Pod"),
        ("svc", "Service"),
        ("vs", "VirtualService"),
        ("virtualservices", "VirtualService"),
        ("serviceentries", "ServiceEntry"),
        ("DEPLOY", "Deployment"),
    ],
)
def test_a_kind_goes_by_kubectls_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_an_unknown_kind_is_told_with_the_known_ones() -> None:
    with pytest.raises(MeshError, match="there is no kind sidecar; there are pod, service,"):
        kind_of("sidecar")
