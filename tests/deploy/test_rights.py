"""What the manifests let each service account do: what it needs, and nothing else."""

import pytest

from pymesh import names
from pymesh_controlplane.sources import kinds
from tests.deploy.rendering import Document, of_kind, pod_of


def rules(documents: list[Document], account: str) -> list[tuple[str, Document]]:
    """Every rule that holds for a service account, with the namespace in which it does; "" is everywhere."""
    found = []
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for binding in of_kind(documents, kind).values():
            if any(subject["name"] == account for subject in binding["subjects"]):
                role = of_kind(documents, binding["roleRef"]["kind"])[binding["roleRef"]["name"]]
                found += [(binding["metadata"].get("namespace", ""), rule) for rule in role["rules"]]
    return found


def test_nobody_may_do_just_anything(everything: list[Document]) -> None:
    for kind in ("Role", "ClusterRole"):
        for role in of_kind(everything, kind).values():
            for rule in role["rules"]:
                assert not any("*" in values for values in rule.values())
                assert not {"delete", "deletecollection", "escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_the_control_plane_may_change_what_it_changes_and_in_the_way_it_does(everything: list[Document]) -> None:
    """As `kube/leader.py`, `written_back/` and `citadel/secret_store.py` say: a patch reads nothing, and only the Lease
    and citadel's own CA are replaced.
    """
    writes = {
        (plural, only): sorted(rule["verbs"])
        for _, rule in rules(everything, "pymesh-controlplane")
        if {"patch", "update"} & set(rule["verbs"])
        for plural in rule["resources"]
        for only in rule.get("resourceNames", [""])
    }
    statuses = [key for key in writes if key[0].endswith("/status")]
    assert [writes.pop(key) for key in statuses] == [["patch"]] * len(statuses)
    assert writes == {
        ("configmaps", names.ROOT_CONFIG_MAP): ["list", "patch", "watch"],
        ("mutatingwebhookconfigurations", "pymesh-injector"): ["list", "patch", "watch"],
        ("validatingwebhookconfigurations", "pymesh-galley"): ["list", "patch", "watch"],
        ("leases", names.CONTROL_PLANE): ["get", "update"],
        ("secrets", names.CA_SECRET_OWN): ["update"],
    }
    assert statuses


def test_secrets_are_the_control_planes_and_in_its_own_namespace_only(everything: list[Document]) -> None:
    places = {
        (account, where)
        for account in of_kind(everything, "ServiceAccount")
        for where, rule in rules(everything, account)
        if "secrets" in rule["resources"]
    }
    assert places == {("pymesh-controlplane", names.SYSTEM_NAMESPACE)}


def test_who_asks_the_api_server_nothing_has_no_token_for_it(everything: list[Document]) -> None:
    for deployment in of_kind(everything, "Deployment").values():
        pod = pod_of(deployment)
        has_rules = bool(rules(everything, pod["serviceAccountName"]))
        assert pod.get("automountServiceAccountToken", True) is has_rules


@pytest.mark.parametrize("account", ["pymesh-controlplane", "policy"])
def test_whoever_reads_the_world_may_read_all_of_it(everything: list[Document], account: str) -> None:
    for kind in kinds.ALL:
        info = kind.resources[0]._api_info
        group, plural = info.resource.group, info.plural
        permitted = {
            verb
            for where, rule in rules(everything, account)
            if group in rule["apiGroups"] and plural in rule["resources"] and (not where or kind.system)
            and (not (only := rule.get("resourceNames")) or kind.fields == f"metadata.name={only[0]}")
            for verb in rule["verbs"]
        }  # fmt: skip
        assert {"list", "watch"} <= permitted, f"{plural}.{group}"


def test_the_root_is_where_the_leader_writes_it_and_not_where_an_istiod_writes_its_own(
    everything: list[Document],
) -> None:
    mounted = [
        volume["configMap"]["name"]
        for deployment in of_kind(everything, "Deployment").values()
        for volume in pod_of(deployment).get("volumes") or []
        if "configMap" in volume
    ]
    written = [
        only
        for where, rule in rules(everything, "pymesh-controlplane")
        if not where and "configmaps" in rule["resources"] and "patch" in rule["verbs"]
        for only in rule["resourceNames"]
    ]
    assert written == ["pymesh-ca-root-cert"] == sorted(set(mounted)) == [names.ROOT_CONFIG_MAP]
