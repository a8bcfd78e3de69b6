"""RBAC: what users, groups and service accounts may do, by the roles and bindings that are stored (rbac/v1)."""

from collections.abc import Iterator, Sequence

from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import ApiError, Object, forbidden
from tests.support.kubernetes.requests import Target, User

_GROUP = "rbac.authorization.k8s.io"
_SUPERUSERS = "system:masters"


def allowed(cluster: Cluster, user: User, asked: Target) -> bool:
    """Whether a user may do something with a resource."""
    if _SUPERUSERS in user.groups:
        return True
    return any(_grants(rule, asked) for rule in rules(cluster, user, asked.namespace))


def allowed_path(cluster: Cluster, user: User, verb: str, path: str) -> bool:
    """Whether a user may GET (POST ...) a path that is not a resource."""
    if _SUPERUSERS in user.groups:
        return True
    return any(
        _has(rule.get("verbs"), verb) and any(_covers(each, path) for each in rule.get("nonResourceURLs", ()))
        for rule in rules(cluster, user, "")
    )


def refused(user: User, asked: Target) -> ApiError:
    """403 in apiserver's words."""
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    named = f' "{asked.name}"' if asked.name else ""
    qualified = f"{asked.plural}.{asked.group}" if asked.group else asked.plural
    message = (
        f'{qualified}{named} is forbidden: User "{user.name}" cannot {asked.verb} resource "{asked.resource}" '
        f'in API group "{asked.group}" {where}'
    )
    return forbidden(message, group=asked.group, plural=asked.plural, name=asked.name)


def refused_path(user: User, verb: str, path: str) -> ApiError:
    """403 for a path that is not a resource."""
    return forbidden(f'forbidden: User "{user.name}" cannot {verb} path "{path}"')


def rules(cluster: Cluster, user: User, namespace: str) -> Iterator[Object]:
    """The rules that hold for a user: in the whole cluster, and in one namespace."""
    for binding in cluster.store.all((_GROUP, "clusterrolebindings")):
        if _binds(binding, user, ""):
            yield from _rules_of(cluster, binding, "")
    for binding in cluster.store.all((_GROUP, "rolebindings"), namespace) if namespace else ():
        if _binds(binding, user, namespace):
            yield from _rules_of(cluster, binding, namespace)


def _binds(binding: Object, user: User, namespace: str) -> bool:
    for subject in binding.get("subjects") or ():
        match subject["kind"]:
            case "User":
                found = subject["name"] == user.name
            case "Group":
                found = subject["name"] in user.groups
            case _:
                place = subject.get("namespace", namespace)
                found = user.name == f"system:serviceaccount:{place}:{subject['name']}"
        if found:
            return True
    return False


def _rules_of(cluster: Cluster, binding: Object, namespace: str) -> Iterator[Object]:
    reference = binding["roleRef"]
    plural, place = ("roles", namespace) if reference["kind"] == "Role" else ("clusterroles", "")
    role = cluster.store.get((_GROUP, plural), place, reference["name"])
    if role is None:
        return
    yield from role.get("rules") or ()
    for selector in (role.get("aggregationRule") or {}).get("clusterRoleSelectors", ()):
        wanted = selector.get("matchLabels", {}).items()
        for each in cluster.store.all((_GROUP, "clusterroles")):
            if wanted <= (each["metadata"].get("labels") or {}).items():
                yield from each.get("rules") or ()


def _grants(rule: Object, asked: Target) -> bool:
    resources = rule.get("resources") or ()
    return (
        _has(rule.get("verbs"), asked.verb)
        and _has(rule.get("apiGroups"), asked.group)
        and (_has(resources, asked.resource) or (bool(asked.subresource) and f"*/{asked.subresource}" in resources))
        and (not rule.get("resourceNames") or asked.name in rule["resourceNames"])
    )


def _has(listed: Sequence[str] | None, wanted: str) -> bool:
    return wanted in (listed or ()) or "*" in (listed or ())


def _covers(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))
