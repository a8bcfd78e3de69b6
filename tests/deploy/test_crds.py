"""The CRDs of Istio's kinds and of our own."""

from pymesh.resources.policy import CheckSpec, ConcurrencyLimitSpec, RateLimitSpec
from pymesh_controlplane.cli import bundle
from pymesh_controlplane.sources import kinds
from tests.deploy.rendering import Document, of_kind

# How Istio names its kinds and which columns it prints (istio.io/api, kubernetes/customresourcedefinitions): whoever
# installs Istio later finds every kind as Istio would have made it.
ISTIO = {
    "virtualservices": ("VirtualService", "vs", ["Gateways", "Hosts", "Age"]),
    "destinationrules": ("DestinationRule", "dr", ["Host", "Age"]),
    "gateways": ("Gateway", "gw", ["Age"]),
    "serviceentries": ("ServiceEntry", "se", ["Hosts", "Location", "Resolution", "Age"]),
    "authorizationpolicies": ("AuthorizationPolicy", "ap", ["Action", "Age"]),
    "requestauthentications": ("RequestAuthentication", "ra", ["Age"]),
    "peerauthentications": ("PeerAuthentication", "pa", ["Mode", "Age"]),
}


def test_istios_crds_are_as_istio_has_them() -> None:
    found = {crd["spec"]["names"]["plural"]: crd for crd in bundle.crds()}
    assert found.keys() == ISTIO.keys()
    for plural, crd in found.items():
        kind, short, columns = ISTIO[plural]
        spec = crd["spec"]
        security = kind in {"AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"}
        group = "security.istio.io" if security else "networking.istio.io"
        versions = ["v1", "v1beta1"] if security else ["v1", "v1beta1", "v1alpha3"]
        assert crd["metadata"]["name"] == f"{plural}.{group}"
        assert spec["names"] == {
            "kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(), "shortNames": [short],
            "categories": ["istio-io", f"{group.partition('.')[0]}-istio-io"],
        }  # fmt: skip
        assert (spec["group"], spec["scope"], "conversion" in spec) == (group, "Namespaced", False)
        assert [version["name"] for version in spec["versions"]] == versions
        assert [version["storage"] for version in spec["versions"]] == [True, *[False] * (len(versions) - 1)]
        for version in spec["versions"]:
            assert version["served"]
            assert version["subresources"] == {"status": {}}
            assert [column["name"] for column in version["additionalPrinterColumns"]] == columns


def test_no_crd_judges_what_galley_judges(everything: list[Document]) -> None:
    """Whatever is written in a spec gets as far as galley, which can say in a sentence what is wrong with it."""
    for crd in (*bundle.crds(), *of_kind(everything, "CustomResourceDefinition").values()):
        for version in crd["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            assert set(schema["properties"]) == {"spec", "status"}
            for part in schema["properties"].values():
                assert (part["type"], part["x-kubernetes-preserve-unknown-fields"]) == ("object", True)
                for field in part.get("properties", {}).values():
                    assert field.keys() == {"description", "x-kubernetes-preserve-unknown-fields"}


def test_every_kind_of_the_mesh_has_a_crd_and_ours_name_every_field(everything: list[Document]) -> None:
    ours = of_kind(everything, "CustomResourceDefinition")
    crds = {(crd["spec"]["group"], crd["spec"]["names"]["plural"]) for crd in (*bundle.crds(), *ours.values())}
    mesh = {(kind.resources[0]._api_info.resource.group, kind.resources[0]._api_info.plural) for kind in kinds.MESH}
    assert crds == mesh
    specs = (("ratelimits", RateLimitSpec), ("concurrencylimits", ConcurrencyLimitSpec), ("checks", CheckSpec))
    for plural, spec in specs:
        [version] = ours[f"{plural}.policy.pymesh.io"]["spec"]["versions"]
        described = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        assert set(described) == set(spec.__struct_encode_fields__)
