"""Which of Istio's kinds are missing."""

import json

from lightkube.core.generic_client import json_encode

from pymesh_controlplane.kube.replica import Name
from pymesh_controlplane.written_back.crds import DEFINITION, definitions, missing


def test_the_package_has_the_kinds_that_the_mesh_applies() -> None:
    """Each under the name that Kubernetes demands."""
    found = definitions()
    assert {"virtualservices.networking.istio.io", "peerauthentications.security.istio.io"} <= found.keys()
    for name, document in found.items():
        assert name == f"{document['spec']['names']['plural']}.{document['spec']['group']}"


def test_what_is_sent_is_what_is_in_the_file() -> None:
    for document in definitions().values():
        sent = json.loads(json_encode(DEFINITION.from_dict(document)))
        assert sent["spec"] == document["spec"]
        assert (sent["apiVersion"], sent["kind"]) == (document["apiVersion"], document["kind"])


def test_only_what_nobody_has_made_is_missing() -> None:
    """Whatever it says: it may be Istio's own."""
    assert missing({"a.x.io": {}, "b.x.io": {}}, {Name("", "b.x.io"): {"spec": "another's"}}) == ["a.x.io"]
