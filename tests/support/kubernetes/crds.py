"""CustomResourceDefinitions: what is wrong with one, and the kinds that it makes the server serve.

Structural schemas prune, default and validate. CEL rules (`x-kubernetes-validations`) are kept and not evaluated.
"""

from collections.abc import Iterator
from typing import Any

from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object, cause, required
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.metadata import timestamp
from tests.support.kubernetes.names import dns_1035
from tests.support.kubernetes.schema import Schema

STORAGE = ("apiextensions.k8s.io", "customresourcedefinitions")
_APPROVAL = "api-approved.kubernetes.io"
_PROTECTED = (".k8s.io", ".kubernetes.io")
_VERSIONED = "spec.versions[{}].schema.openAPIV3Schema"


def wrong(made: Object) -> Iterator[Object]:
    """Causes of a 422 in a CustomResourceDefinition."""
    spec = made.get("spec", {})
    names, group, versions = spec.get("names", {}), spec.get("group", ""), spec.get("versions", ())
    expected = f"{names.get('plural')}.{group}"
    if made["metadata"]["name"] != expected:
        yield cause(
            "metadata.name", f'Invalid value: "{made["metadata"]["name"]}": must be spec.names.plural+"."+spec.group'
        )
    if group.endswith(_PROTECTED) and _APPROVAL not in (made["metadata"].get("annotations") or {}):
        yield required(
            f"metadata.annotations[{_APPROVAL}]", f'protected groups must have approval annotation "{_APPROVAL}"'
        )
    yield from dns_1035(names.get("plural", ""), "spec.names.plural")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield cause("spec.versions", "Invalid value: must have exactly one version marked as storage version")
    if spec.get("preserveUnknownFields"):
        yield cause(
            "spec.preserveUnknownFields", "Invalid value: true: must be false in order to use defaults in the schema"
        )
    for index, version in enumerate(versions):
        schema = version.get("schema", {}).get("openAPIV3Schema")
        if schema and all(each.get("schema") == version["schema"] for each in versions):
            # One schema for all versions is what the hub version of the type calls its own.
            yield from _not_structural(schema, "spec.validation.openAPIV3Schema")
            break
        if not schema:
            yield required(_VERSIONED.format(index), "schemas are required")
        else:
            yield from _not_structural(schema, _VERSIONED.format(index))


def _not_structural(node: Any, path: str) -> Iterator[Object]:
    """What keeps a schema from being structural (apiextensions' ValidateStructural)."""
    if not node.get("type") and not any(
        node.get(key) for key in ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string")
    ):
        yield required(f"{path}.type", "must not be empty for specified object fields")
    if "properties" in node and "additionalProperties" in node:
        said = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield cause(f"{path}.additionalProperties", said, "FieldValueForbidden")
    if node.get("type") == "array" and "items" not in node:
        yield required(f"{path}.items", "must be specified")
    for key, below in node.get("properties", {}).items():
        if path.endswith("openAPIV3Schema") and key in ("apiVersion", "kind", "metadata"):
            continue
        yield from _not_structural(below, f"{path}.properties[{key}]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from _not_structural(node["additionalProperties"], f"{path}.additionalProperties")
    if isinstance(node.get("items"), dict):
        yield from _not_structural(node["items"], f"{path}.items")


def kinds(definition: Object) -> list[Kind]:
    """What a definition serves."""
    spec = definition["spec"]
    names = spec["names"]
    return [
        Kind(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            short=tuple(names.get("shortNames", ())),
            categories=tuple(names.get("categories", ())),
            singular=names.get("singular") or names["kind"].lower(),
            subresources=tuple(sorted(version.get("subresources", {}))),
            schema=Schema(version["schema"]["openAPIV3Schema"], root=True),
            columns=tuple(version.get("additionalPrinterColumns") or (_AGE,)),
            custom=True,
            selectable=tuple(each["jsonPath"].removeprefix(".") for each in version.get("selectableFields", ())),
        )
        for version in spec["versions"]
        if version["served"]
    ]


_AGE: Object = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def establish(cluster: Cluster, definition: Object) -> None:
    """Serve what a definition says, and say so in its status."""
    spec = definition["spec"]
    cluster.registry.replace(spec["group"], spec["names"]["plural"], kinds(definition))
    now = timestamp(cluster.clock())
    storing = next(version["name"] for version in spec["versions"] if version["storage"])
    before = definition.get("status", {})
    stored = before.get("storedVersions") or []
    status = {
        "acceptedNames": spec["names"],
        "conditions": before.get("conditions")
        or [
            {"type": "NamesAccepted", "status": "True", "lastTransitionTime": now, "reason": "NoConflicts",
             "message": "no conflicts found"},
            {"type": "Established", "status": "True", "lastTransitionTime": now, "reason": "InitialNamesAccepted",
             "message": "the initial names have been accepted"},
        ],
        "storedVersions": [*stored, *([storing] if storing not in stored else [])],
    }  # fmt: skip
    if status != before:
        cluster.store.put(STORAGE, definition | {"metadata": dict(definition["metadata"]), "status": status})


def fill(made: Object) -> None:
    """Defaults of a CustomResourceDefinition, in place."""
    spec = made.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if kind := names.get("kind"):
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})
