"""Which namespaces lack the mesh's root, and what they lack."""

from typing import Any

from pymesh_controlplane.kube.replica import Name
from pymesh_controlplane.written_back.root_bundles import lacking

BUNDLE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
GOOD = {"metadata": {"labels": {"app.kubernetes.io/part-of": "pymesh"}}, "data": {"root-cert.pem": BUNDLE}}
PATCH = {"metadata": {"labels": {"app.kubernetes.io/part-of": "pymesh"}}, "data": {"root-cert.pem": BUNDLE}}


def namespaces(*names: str, **metadata: str) -> dict[Name, Any]:
    return {Name("", name): {"metadata": {"name": name, **metadata}} for name in names}


def in_default(config_map: dict[str, Any]) -> dict[Name, Any]:
    return {Name("default", "pymesh-ca-root-cert"): config_map}


def test_a_namespace_without_it_lacks_all_of_it() -> None:
    assert list(lacking(namespaces("b", "a"), {}, BUNDLE)) == [("a", None), ("b", None)]


def test_one_that_has_it_lacks_nothing_whatever_else_is_in_it() -> None:
    labels = {"app.kubernetes.io/part-of": "pymesh", "team": "x"}
    more = {"metadata": {"labels": labels}, "data": {**GOOD["data"], "other": "y"}}
    assert list(lacking(namespaces("default"), in_default(GOOD), BUNDLE)) == []
    assert list(lacking(namespaces("default"), in_default(more), BUNDLE)) == []


def test_one_that_was_edited_is_repaired() -> None:
    """The key, the label, or all of it."""
    for broken in (
        {"metadata": GOOD["metadata"], "data": {"root-cert.pem": "old"}},
        {"metadata": GOOD["metadata"]},
        {"metadata": GOOD["metadata"], "data": None},
        {"metadata": {"labels": {"app.kubernetes.io/part-of": "istio"}}, "data": GOOD["data"]},
        {"metadata": {}, "data": GOOD["data"]},
    ):
        assert list(lacking(namespaces("default"), in_default(broken), BUNDLE)) == [("default", PATCH)]


def test_a_namespace_that_is_going_takes_nothing_new() -> None:
    assert list(lacking(namespaces("default", deletionTimestamp="2026-11-23T00:00:00Z"), {}, BUNDLE)) == []
