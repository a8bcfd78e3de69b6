"""What a webhook configuration lacks."""

import base64
from typing import Any

from pymesh_controlplane.written_back.ca_bundles import current

BUNDLE = "-----BEGIN CERTIFICATE-----\n"
ENCODED = base64.b64encode(BUNDLE.encode()).decode()


def configuration(*bundles: str | None) -> dict[str, Any]:
    service = {"name": "galley", "namespace": "pymesh-system", "path": "/validate"}
    entries = [
        {
            "name": f"{number}.galley.pymesh.io",
            "failurePolicy": "Fail",
            "clientConfig": {"service": service, **({"caBundle": bundle} if bundle else {})},
        }
        for number, bundle in enumerate(bundles)
    ]
    return {"metadata": {"name": "pymesh-galley", "resourceVersion": "7"}, "webhooks": entries}


def test_every_entry_gets_the_bundle_and_keeps_the_rest() -> None:
    """Of the version that was seen and no other: somebody may change it meanwhile."""
    patch = current(configuration(None, "b2xk", ENCODED), BUNDLE)
    assert patch == {
        "metadata": {"resourceVersion": "7"},
        "webhooks": configuration(ENCODED, ENCODED, ENCODED)["webhooks"],
    }


def test_one_that_has_it_lacks_nothing() -> None:
    assert current(configuration(ENCODED, ENCODED), BUNDLE) is None
    assert current({"metadata": {"resourceVersion": "7"}}, BUNDLE) is None
