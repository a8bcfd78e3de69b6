"""The Kubernetes source: a cluster's objects become worlds, each as soon as it changes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import msgspec
import pytest

from pymesh.resources.resource import Key
from pymesh_controlplane.kube import reflector as reflectors
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.sources import kinds, secrets
from pymesh_controlplane.sources.kubernetes import STALE, WITHOUT
from pymesh_controlplane.sources.ledger import INCOMPLETE, KEPT, NOTHING
from tests.controlplane.pilot.worlds import pod, service
from tests.controlplane.sources.harness import (
    GATEWAY,
    SECRET,
    SLICE,
    WEB,
    Cluster,
    administrator,
    crd,
    following,
    install_kinds,
    route,
)
from tests.support.kubernetes import app as api_app
from tests.support.kubernetes.server import ApiServer
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflectors, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(reflectors, "LAST_DELAY", 0.5)
    monkeypatch.setattr(reflectors, "LAST_ABSENT_DELAY", 0.5)


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    """An API server with the kinds of the mesh."""
    with ApiServer() as server:
        asyncio.run(install_kinds(server))
        yield server


@pytest.fixture
async def cluster(api: ApiServer) -> AsyncIterator[Cluster]:
    """A cluster with nothing in it, at first and afterwards."""
    async with administrator(api) as found:
        yield found
        await found.clear()


# --- The life of objects ---------------------------------------------------------------------------------------------


async def test_a_service_its_pods_and_its_routes_come_and_go(cluster: Cluster) -> None:
    web = pod("web-a", "10.244.0.9", "web")
    await cluster.apply(service("web", ip="10.96.0.20"), web, SLICE, route())
    async with following(cluster) as found:
        await eventually(lambda: found.world.endpoints[WEB, 9080])
        assert found.worlds == [found.world], "there is no world before everything was listed"
        (endpoint,) = found.world.endpoints[WEB, 9080]
        assert (endpoint.mesh, found.world.routing[WEB].key.name) == (True, "web")
        assert found.said() == []

        await cluster.delete(SLICE)
        await eventually(lambda: not found.world.endpoints[WEB, 9080])
        await cluster.apply(SLICE.replace("10.244.0.9", "10.244.0.7"))
        await cluster.delete(web)
        await cluster.apply(pod("web-a", "10.244.0.7", "web"))  # deleted, and made again under the same name
        await eventually(lambda: [e.address for e in found.world.endpoints[WEB, 9080]] == ["10.244.0.7"])
        await cluster.delete(route())
        await eventually(lambda: not found.world.routing)


async def test_pods_that_have_ended_are_not_there(cluster: Cluster) -> None:
    ended = pod("job-a", "10.244.0.8", "job").replace("Running", "Succeeded")
    pending = pod("web-b", "10.244.0.6", "web").replace("podIP: 10.244.0.6, phase: Running", "phase: Pending")
    await cluster.apply(pod("web-a", "10.244.0.9", "web"), ended, pending)
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
        assert list(found.world.workloads) == ["10.244.0.9"]
        await cluster.apply(pod("web-b", "10.244.0.6", "web"))
        await eventually(lambda: len(found.world.workloads) == 2)


async def test_a_kind_that_is_installed_later_is_read_then() -> None:
    with ApiServer() as api:
        async with administrator(api) as cluster, following(cluster) as found:
            await eventually(lambda: found.worlds)
            assert found.said() == [], "that a kind is missing is no mistake"
            await install_kinds(api)
            await cluster.apply(service("web", ip="10.96.0.20"), route())
            await eventually(lambda: WEB in found.world.routing)


async def test_many_changes_at_once_are_one_world(cluster: Cluster) -> None:
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
        before = len(found.worlds)
        texts = [service(f"s{number}", ip=f"10.96.1.{number}") for number in range(1, 30)]
        await asyncio.gather(*(cluster.apply(text) for text in texts))
        await eventually(lambda: len(found.world.services) == 30)  # and the API server's own
        assert len(found.worlds) - before < 10


async def test_who_does_not_listen_any_more_leaves_nothing_running(cluster: Cluster) -> None:
    before = asyncio.all_tasks()
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
    await eventually(lambda: asyncio.all_tasks() <= before)


# --- What is wrong ---------------------------------------------------------------------------------------------------


async def test_a_wrong_version_leaves_the_one_before_in_force(cluster: Cluster) -> None:
    await cluster.apply(service("web", ip="10.96.0.20"), route())
    async with following(cluster) as found:
        await eventually(lambda: WEB in found.world.routing)
        await cluster.apply(route("web, subset: v9"))
        await eventually(found.said)
        (problem,) = found.world.problems
        assert (problem.resource, problem.consequence) == ("VirtualService default/web", KEPT)
        assert str(problem).startswith("kubernetes: VirtualService default/web: spec.http[0].route[0].destination")
        await cluster.apply(route())
        await eventually(lambda: not found.said())


async def test_what_names_something_missing_is_in_force_as_far_as_it_goes_in_every_process(cluster: Cluster) -> None:
    """The API server keeps no version before: one process and the next are to agree."""
    await cluster.apply(service("web", ip="10.96.0.20"), route("web, subset: v9"))
    for _ in range(2):
        async with following(cluster) as found:
            await eventually(lambda: found.worlds)
            assert WEB in found.world.routing
            assert [problem.consequence for problem in found.world.problems] == [INCOMPLETE]


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server sends 5,000 levels where an object has "@deep@"; msgspec itself writes no such thing."""

    def encode(value: object) -> bytes:
        return msgspec.json.encode(value).replace(b'"@deep@"', b'{"a":' * 5_000 + b"1" + b"}" * 5_000)

    monkeypatch.setattr(api_app, "msgspec", SimpleNamespace(json=SimpleNamespace(encode=encode)))


def put(cluster: Cluster, name: str, **fields: object) -> None:
    """Store a VirtualService with other `fields`, as the API server would that asks no webhook."""
    kind = (kinds.NETWORKING, "virtualservices")
    stored = cluster.api.cluster.store.get(kind, "default", name)
    assert stored is not None
    changed = {**stored, **fields}
    cluster.api._running().call(lambda: cluster.api.cluster.store.put(kind, changed))


@pytest.mark.usefixtures("deep")
async def test_an_object_that_is_nested_too_deep_is_refused_alone(cluster: Cluster) -> None:
    other = route().replace("name: web", "name: other").replace("hosts: [web]", "hosts: [other]")
    await cluster.apply(service("web", ip="10.96.0.20"), service("other", ip="10.96.0.21"), route(), other)
    async with following(cluster) as found:
        await eventually(lambda: len(found.world.routing) == 2)
        put(cluster, "web", spec={"hosts": ["web"], "http": "@deep@"})
        put(cluster, "other", status={"mine": "@deep@"})
        await eventually(found.said)
        (problem,) = found.world.problems
        assert (problem.resource, problem.consequence) == ("VirtualService default/web", KEPT)
        assert "nested deeper than" in problem.sentence
        assert len(found.world.routing) == 2
        await cluster.delete(other)
        await eventually(lambda: len(found.world.routing) == 1)
    async with following(cluster) as found:  # the next process finds it in a list
        await eventually(lambda: found.worlds)
        assert [problem.consequence for problem in found.world.problems] == [NOTHING]
        assert WEB in found.world.services
        await cluster.apply(service("next", ip="10.96.0.22"))
        await eventually(lambda: "next.default.svc.cluster.local" in found.world.services)


async def test_kinds_that_are_not_applied_are_named(cluster: Cluster) -> None:
    """Somebody may rely on them: a policy that is there and does nothing is worse than none."""
    await cluster.apply(
        crd(kinds.NETWORKING, "Sidecar", "sidecars"),
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: deny, namespace: default}\n",
    )
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
        (problem,) = found.world.problems
        assert (problem.resource, problem.consequence) == ("Sidecar default/deny", NOTHING)
        assert "is not supported yet" in problem.sentence


async def test_what_a_newer_kubernetes_says_of_services_and_pods_does_not_harm(cluster: Cluster) -> None:
    newer = service("web", ip="10.96.0.20")
    await cluster.apply(newer)
    stored = cluster.api.cluster.store.get(("", "services"), "default", "web")
    assert stored is not None
    spec = {**stored["spec"], "trafficPolicyOf2031": "Nearest"}
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
        cluster.api._running().call(lambda: cluster.api.cluster.store.put(("", "services"), {**stored, "spec": spec}))
        await cluster.apply(service("next", ip="10.96.0.21"))
        await eventually(lambda: "next.default.svc.cluster.local" in found.world.services)
        assert WEB in found.world.services
        assert found.said() == []


# --- The API server is away, or says no ------------------------------------------------------------------------------


async def test_before_everything_was_listed_it_says_what_it_waits_for(cluster: Cluster) -> None:
    cluster.api.stop()
    async with following(cluster) as found:
        await eventually(lambda: "ConnectError" in found.source.waiting())
        assert found.source.waiting().startswith("services of the Kubernetes API (")
        assert not found.worlds
        cluster.api.start()
        await eventually(lambda: found.worlds)
        assert found.source.waiting() == ""


async def test_while_the_api_server_is_away_the_world_stays_and_says_so(cluster: Cluster) -> None:
    await cluster.apply(service("web", ip="10.96.0.20"))
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
        cluster.api.stop()
        await eventually(found.said)
        assert {problem.consequence for problem in found.world.problems} == {STALE}
        assert WEB in found.world.services
        cluster.api.start()
        await cluster.apply(service("next", ip="10.96.0.21"))
        await eventually(lambda: not found.said() and "next.default.svc.cluster.local" in found.world.services)


async def test_without_the_roles_of_the_manifests_it_says_what_is_missing(cluster: Cluster) -> None:
    token = cluster.api.account_token("default", "default")
    async with following(cluster, token=token) as found:
        await eventually(lambda: "forbidden" in found.source.waiting())
        assert "give the ServiceAccount the verbs get, list and watch" in found.source.waiting()


# --- Secrets ---------------------------------------------------------------------------------------------------------


def front() -> str:
    return pod("front-a", "10.244.0.30", "front", mesh=False)


def note(world: World) -> object:
    found = world.resources.get(Key("Secret", "default", "front-cert"))
    return None if found is None else found.raw["data"]


async def test_the_secrets_that_gateways_name_are_read_and_no_others(cluster: Cluster) -> None:
    await cluster.apply(SECRET, SECRET.replace("front-cert", "password"), front(), GATEWAY)
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
        assert note(found.worlds[0]) == {"note": "b25l"}, "the first world has what it needs"
        assert Key("Secret", "default", "password") not in found.world.resources
        await cluster.apply(SECRET.replace("b25l", "dHdv"))
        await eventually(lambda: note(found.world) == {"note": "dHdv"})
        await cluster.delete(GATEWAY)
        await eventually(lambda: note(found.world) is None)


async def test_a_secret_that_comes_later_is_read_then(cluster: Cluster) -> None:
    await cluster.apply(front(), GATEWAY)
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
        await cluster.apply(SECRET)
        await eventually(lambda: note(found.world) == {"note": "b25l"})


async def test_policy_reads_no_secrets(cluster: Cluster) -> None:
    await cluster.apply(SECRET, front(), GATEWAY)
    async with following(cluster, with_secrets=False) as found:
        await eventually(lambda: found.worlds)
        assert note(found.world) is None


READER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [services, pods, nodes, namespaces, configmaps], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [networking.istio.io, security.istio.io, policy.pymesh.io], resources: ["*"], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
"""
SECRETS_READER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: secrets, namespace: default}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: secrets, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: secrets}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
"""


async def test_a_secret_that_must_not_be_read_says_which_role_is_missing(cluster: Cluster) -> None:
    await cluster.apply(READER, SECRET, front(), GATEWAY)
    async with following(cluster, token=cluster.api.account_token("default", "default")) as found:
        await eventually(lambda: any("Role of namespace default" in text for text in found.said()))
        assert any(problem.consequence == WITHOUT for problem in found.world.problems)
        await cluster.apply(SECRETS_READER)
        await eventually(lambda: note(found.world) == {"note": "b25l"})
        assert not any("Role" in text for text in found.said())


async def test_more_secrets_than_there_may_be_are_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "MAX_SECRETS", 1)
    other = GATEWAY.replace("name: front,", "name: other,").replace("front-cert", "other-cert").replace("443", "444")
    await cluster.apply(front(), GATEWAY, other)
    async with following(cluster) as found:
        await eventually(lambda: any("Secret default/other-cert is not read" in text for text in found.said()))


async def test_gateways_that_come_later_take_nobodys_secret_away(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "MAX_SECRETS", 1)
    early = GATEWAY.replace("name: front,", "name: a,").replace("front-cert", "a-cert").replace("443", "444")
    await cluster.apply(front(), GATEWAY, SECRET)
    async with following(cluster) as found:
        await eventually(lambda: found.worlds)
        await cluster.apply(early)
        await eventually(lambda: any("Secret default/a-cert is not read" in text for text in found.said()))
        assert note(found.world) == {"note": "b25l"}
        await cluster.delete(GATEWAY)
        await eventually(lambda: not any("is not read" in text for text in found.said()))
        assert note(found.world) is None
