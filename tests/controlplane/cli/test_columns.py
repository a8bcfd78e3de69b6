"""The columns of `pymesh get`."""

from typing import Any

from pymesh_controlplane.cli.columns import object_rows

NOW = 1_700_000_100.0


def thing(kind: str, name: str = "web", spec: Any = None, status: Any = None, **more: Any) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": name, **more.pop("metadata", {})}
    return {"kind": kind, "metadata": metadata, "spec": spec or {}, "status": status or {}, **more}


def row(item: dict[str, Any], *others: dict[str, Any]) -> dict[str, str]:
    header, [cells] = object_rows([item], item["kind"], [item, *others], NOW)
    return dict(zip(header, cells, strict=True))


def test_a_pod_counts_its_native_sidecar_and_not_its_other_init_containers() -> None:
    status = {
        "phase": "Running", "podIP": "10.244.0.9", "startTime": "2023-11-14T22:13:20Z",
        "initContainerStatuses": [
            {"name": "pymesh-init", "ready": False, "restartCount": 4},
            {"name": "pymesh-proxy", "ready": True, "restartCount": 1},
        ],
        "containerStatuses": [{"name": "app", "ready": False, "restartCount": 2}],
    }  # fmt: skip
    spec = {"initContainers": [{"name": "pymesh-init"}, {"name": "pymesh-proxy", "restartPolicy": "Always"}]}
    assert row(thing("Pod", spec=spec, status=status)) == {
        "NAMESPACE": "shop", "NAME": "web", "READY": "1/2", "STATUS": "Running", "RESTARTS": "3", "IP": "10.244.0.9",
        "AGE": "100s",
    }  # fmt: skip


def test_a_deployment_has_as_many_ready_pods_as_it_owns() -> None:
    def pod(name: str, ready: str, owner: str) -> dict[str, Any]:
        owners = {"ownerReferences": [{"kind": "Deployment", "name": owner}]}
        return thing("Pod", name, metadata=owners, status={"conditions": [{"type": "Ready", "status": ready}]})

    deployment = thing("Deployment", spec={"replicas": 3, "selector": {"matchLabels": {"app": "web"}}})
    pods = [pod("web-1", "True", "web"), pod("web-2", "False", "web"), pod("other-1", "True", "other")]
    ending = pod("d", "True", "web")
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    pods.append(ending)
    assert (row(deployment, *pods)["READY"], row(deployment)["SELECTOR"]) == ("1/3", "app=web")


def test_kinds_of_the_mesh_have_istioctls_columns() -> None:
    virtual = row(thing("VirtualService", spec={"hosts": ["a", "b"], "gateways": ["edge"]}))
    assert (virtual["GATEWAYS"], virtual["HOSTS"]) == ("edge", "a,b")
    address = {"value": "127.0.0.1:8080", "pod": "ingressgateway", "port": 8080}
    gateway = thing(
        "Gateway",
        spec={"selector": {"istio": "ingressgateway"}, "servers": [{"hosts": ["*"]}, {"hosts": ["*", "a"]}]},
        status={"addresses": [address]},
    )
    found = row(gateway)
    assert (found["SELECTOR"], found["HOSTS"]) == ("istio=ingressgateway", "*,a")
    assert found["ADDRESSES"] == "127.0.0.1:8080->8080"
    assert row(thing("Gateway"))["ADDRESSES"] == "-"
    assert row(thing("ConcurrencyLimit", spec={"max": 10}))["LIMIT"] == "10 at once"
    assert row(thing("RateLimit", spec={"requests": 3, "per": "Minute"}))["LIMIT"] == "3 per Minute"


def test_of_all_kinds_the_kind_is_told_and_no_terminal_obeys() -> None:
    assert object_rows([thing("Secret"), thing("Pod")], "", [], NOW) == (
        ["KIND", "NAMESPACE", "NAME"],
        [["Secret", "shop", "web"], ["Pod", "shop", "web"]],
    )
    assert row(thing("VirtualService", spec={"hosts": ["\x1b[2J"]}))["HOSTS"].isprintable()
