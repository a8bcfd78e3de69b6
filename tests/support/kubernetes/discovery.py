"""What there is: /api, /apis, their groups and versions, the aggregated form that kubectl asks for, and /version."""

from tests.support.kubernetes.errors import Object, no_such_path
from tests.support.kubernetes.kinds import SUBRESOURCE_KINDS, Kind
from tests.support.kubernetes.registry import Registry, subresource_verbs

AGGREGATED = "APIGroupDiscoveryList"
VERSION: Object = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.0",
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "2026-04-22T00:00:00Z",
    "goVersion": "go1.26.0",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def core_versions(address: str) -> Object:
    """GET /api."""
    clients = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": clients}


def groups(registry: Registry) -> Object:
    """GET /apis."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(registry, each) for each in registry.groups()],
    }


def group(registry: Registry, name: str) -> Object:
    """GET /apis/<group>.

    Raises:
        ApiError: 404.
    """
    if name not in registry.groups():
        raise no_such_path()
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(registry, name)


def _group(registry: Registry, name: str) -> Object:
    versions = [{"groupVersion": f"{name}/{each}", "version": each} for each in registry.versions(name)]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resources(registry: Registry, name: str, version: str) -> Object:
    """GET /api/v1 and /apis/<group>/<version>.

    Raises:
        ApiError: 404.
    """
    kinds = registry.served(name, version)
    if not kinds:
        raise no_such_path()
    listed = [entry for kind in kinds for entry in _resources(kind)]
    group_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def _resources(kind: Kind) -> list[Object]:
    entry: Object = {
        "name": kind.plural,
        "singularName": kind.single,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short:
        entry["shortNames"] = list(kind.short)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    entries = [entry]
    for name in kind.subresources:
        group, version, what = SUBRESOURCE_KINDS.get((kind.plural, name), (kind.group, kind.version, kind.kind))
        sub: Object = {
            "name": f"{kind.plural}/{name}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": what,
            "verbs": list(subresource_verbs(name)),
        }
        entries.append(
            sub if (group, version) == (kind.group, kind.version) else sub | {"group": group, "version": version}
        )
    return entries


def aggregated(registry: Registry, names: list[str], api_version: str) -> Object:
    """GET /api or /apis for who accepts `as=APIGroupDiscoveryList`: everything at once."""
    items = [
        {
            "metadata": {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None},
            "versions": [
                {
                    "version": version,
                    "resources": [_aggregated(kind) for kind in registry.served(name, version)],
                    "freshness": "Current",
                }
                for version in registry.versions(name)
            ],
        }
        for name in names
    ]
    return {"kind": AGGREGATED, "apiVersion": f"apidiscovery.k8s.io/{api_version}", "metadata": {}, "items": items}


def _aggregated(kind: Kind) -> Object:
    entry: Object = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.single,
        "verbs": list(kind.verbs),
    }
    if kind.short:
        entry["shortNames"] = list(kind.short)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    subresources = []
    for name in kind.subresources:
        group, version, what = SUBRESOURCE_KINDS.get((kind.plural, name), (kind.group, kind.version, kind.kind))
        subresources.append({
            "subresource": name,
            "responseKind": {"group": group, "version": version, "kind": what},
            "verbs": list(subresource_verbs(name)),
        })  # fmt: skip
    if subresources:
        entry["subresources"] = subresources
    return entry
