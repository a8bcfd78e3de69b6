"""A kind kept at hand, against an API server that cuts, forgets, refuses and goes away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.core_v1 import NamespaceSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import ConfigMap, Namespace

from pymesh_controlplane.kube import reflector as reflectors
from pymesh_controlplane.kube.client import connect
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Name
from pymesh_controlplane.metrics import Metrics
from tests.controlplane.kube.scripted import answer, begin, event, items, scripted
from tests.support.kubernetes import reads
from tests.support.kubernetes.server import ApiServer
from tests.support.waiting import eventually

Widget = create_namespaced_resource("example.com", "v1", "Widget", "widgets")
OldWidget = create_namespaced_resource("example.com", "v1alpha1", "Widget", "widgets")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cluster, but nobody waits for half a minute."""
    monkeypatch.setattr(reflectors, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(reflectors, "LAST_DELAY", 0.2)
    monkeypatch.setattr(reflectors, "LAST_ABSENT_DELAY", 0.1)


@asynccontextmanager
async def running(reflector: Reflector) -> AsyncIterator[Reflector]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(reflector.run())
        yield reflector
        task.cancel()


@pytest.fixture
async def namespace(client: AsyncClient, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    name = request.node.name.replace("_", "-").lower()[:60].strip("-")
    await client.create(Namespace(metadata=ObjectMeta(name=name), spec=NamespaceSpec()))
    return name


def config_map(name: str, namespace: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace=namespace, labels={"app": name}), data=data)


def content(reflector: Reflector) -> dict[str, object]:
    return {name.name: dict(value.get("data") or {}) for name, value in reflector.objects.items()}


# --- What is there, and what happens to it ---------------------------------------------------------------------------


async def test_what_is_there_and_what_happens_to_it(client: AsyncClient, namespace: str) -> None:
    await client.create(config_map("a", namespace, x="1"))
    async with running(Reflector(client, ConfigMap, namespace=namespace)) as found:
        await eventually(lambda: found.synced)
        own = content(found)
        assert own["a"] == {"x": "1"}
        await client.create(config_map("b", namespace))
        await client.replace(config_map("a", namespace, x="2"))
        await eventually(lambda: content(found)["a"] == {"x": "2"} and "b" in content(found))
        await client.delete(ConfigMap, "a", namespace=namespace)
        await eventually(lambda: "a" not in content(found))
        (kept,) = [value for name, value in found.objects.items() if name.name == "b"]
        assert (kept["apiVersion"], kept["kind"]) == ("v1", "ConfigMap")
        assert "managedFields" not in kept["metadata"]


async def test_selectors_choose(client: AsyncClient, namespace: str) -> None:
    for name in "ab":
        await client.create(config_map(name, namespace))
    by_label = Reflector(client, ConfigMap, namespace=namespace, labels="app=a")
    by_name = Reflector(client, ConfigMap, namespace=namespace, fields="metadata.name=b")
    async with running(by_label), running(by_name):
        await eventually(lambda: by_label.synced and by_name.synced)
    assert (list(content(by_label)), list(content(by_name))) == (["a"], ["b"])
    assert str(by_name) == f"configmaps in {namespace} (metadata.name=b)"


async def test_lists_come_in_parts(client: AsyncClient, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflectors, "PAGE", 2)
    for number in range(5):
        await client.create(config_map(f"m{number}", namespace))
    async with running(Reflector(client, ConfigMap, namespace=namespace, labels="app")) as found:
        await eventually(lambda: found.synced)
        assert sorted(content(found)) == [f"m{number}" for number in range(5)]


async def test_whoever_waits_is_told_of_every_change_at_least_once(client: AsyncClient, namespace: str) -> None:
    told: list[list[str]] = []

    async def listen(reflector: Reflector) -> None:
        async for objects in reflector.changes():
            told.append(sorted(name.name for name in objects))  # noqa: PERF401  the generator never ends

    async with running(Reflector(client, ConfigMap, namespace=namespace, labels="app")) as found:
        listener = asyncio.get_running_loop().create_task(listen(found))
        await eventually(lambda: told == [[]])
        await client.create(config_map("a", namespace))
        await eventually(lambda: told[-1] == ["a"])
        await client.delete(ConfigMap, "a", namespace=namespace)
        await eventually(lambda: told[-1] == [])
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
    assert len(told) == 3


# --- Nothing is missed -----------------------------------------------------------------------------------------------


async def test_a_watch_that_is_cut_goes_on_where_it_was(api: ApiServer, client: AsyncClient, namespace: str) -> None:
    metrics = Metrics()
    async with running(Reflector(client, ConfigMap, namespace=namespace, labels="app", metrics=metrics)) as found:
        await eventually(lambda: found.synced)
        for number in range(3):
            await client.create(config_map(f"m{number}", namespace))
            api.cut()
        await eventually(lambda: len(content(found)) == 3)
    assert metrics.counted("pymesh_kubernetes_lists") == 1, "only the watch began anew"


async def test_what_was_deleted_while_nobody_looked_is_gone(
    api: ApiServer, client: AsyncClient, namespace: str
) -> None:
    """Its deletion is in no watch any more: the server has been compacted. Only a list can tell."""
    for name in "abc":
        await client.create(config_map(name, namespace))
    metrics = Metrics()
    async with running(Reflector(client, ConfigMap, namespace=namespace, labels="app", metrics=metrics)) as found:
        await eventually(lambda: len(content(found)) == 3)
        api.stop()
        await eventually(lambda: found.trouble)
        assert len(content(found)) == 3, "what is known stays while the server is away"
        store = api.cluster.store
        store.remove(("", "configmaps"), namespace, "b")
        store.put(("", "configmaps"), {**api_object(found, "c"), "data": {"x": "new"}})
        store.compact()
        api.start()
        await eventually(lambda: content(found) == {"a": {}, "c": {"x": "new"}})
        assert not found.trouble
    assert metrics.counted("pymesh_kubernetes_lists") == 2


def api_object(reflector: Reflector, name: str) -> dict[str, object]:
    return next(dict(value) for key, value in reflector.objects.items() if key.name == name)


async def test_where_nothing_happens_bookmarks_keep_the_version_young(
    api: ApiServer, client: AsyncClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them a quiet kind would have to be listed anew after each compaction."""
    monkeypatch.setattr(reads, "BOOKMARK_EVERY", 0.1)
    metrics = Metrics()
    async with running(Reflector(client, ConfigMap, namespace=namespace, labels="app", metrics=metrics)) as found:
        await eventually(lambda: found.synced)
        listed = api.cluster.store.revision
        await client.create(config_map("elsewhere", "default"))
        heard = metrics.counted("pymesh_kubernetes_events")
        await eventually(lambda: metrics.counted("pymesh_kubernetes_events") > heard + 1)
        api.cluster.store.compacted = listed + 1
        api.cut()
        await client.create(config_map("a", namespace))
        await eventually(lambda: "a" in content(found))
    assert metrics.counted("pymesh_kubernetes_lists") == 1


async def test_a_version_from_the_future_is_listed_anew() -> None:
    """A restored backup is older than what we have seen; the server would wait for our version for ever."""
    asked: list[str] = []

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        asked.append(path)
        if "watch=true" not in path:
            answer(writer, items("a", version="900" if len(asked) == 1 else "7"))
        elif "resourceVersion=900" in path:
            answer(writer, {"code": 504, "message": "Too large resource version"}, "504 Gateway Timeout")
        else:
            begin(writer)
            writer.write(event("ADDED", "b", "8"))
            await writer.drain()
            await asyncio.sleep(60)

    async with scripted(script) as client, running(Reflector(client, ConfigMap)) as found:
        await eventually(lambda: sorted(content(found)) == ["a", "b"])


async def test_a_list_that_comes_too_late_for_its_next_part_is_asked_for_whole() -> None:
    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        if "continue=" in path:
            answer(writer, {"code": 410, "message": "the continue token is too old"}, "410 Gone")
        elif "limit=" in path:
            answer(writer, items("a", rest="more"))
        elif "watch=true" not in path:
            answer(writer, items("a", "b"))
        else:
            begin(writer)
            await writer.drain()
            await asyncio.sleep(60)

    async with scripted(script) as client, running(Reflector(client, ConfigMap)) as found:
        await eventually(lambda: sorted(content(found)) == ["a", "b"])


async def test_a_watch_that_falls_silent_is_begun_anew_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that died without a word looks just like that."""
    monkeypatch.setattr(reflectors, "SILENCE", 0.2)
    watches: list[str] = []

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        if "watch=true" not in path:
            answer(writer, items("a"))
            return
        watches.append(path)
        begin(writer)
        writer.write(event("ADDED", f"n{len(watches)}", str(10 + len(watches))))
        await writer.drain()
        await asyncio.sleep(60)

    async with scripted(script) as client, running(Reflector(client, ConfigMap)) as found:
        await eventually(lambda: sorted(content(found)) == ["a", "n1", "n2"])
    assert ["resourceVersion=1&" in watches[0], "resourceVersion=11&" in watches[1]] == [True, True]
    assert not found.trouble


@pytest.mark.parametrize(("restored", "lists"), [(True, 2), (False, 1)])
async def test_silence_is_usual_unless_the_server_is_behind_us(
    restored: bool, lists: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real API server, restored from a backup, takes a watch from a later version, and waits until it gets there."""
    monkeypatch.setattr(reflectors, "SILENCE", 0.2)
    asked: list[str] = []
    metrics = Metrics()

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        asked.append(path)
        if "watch=true" not in path:
            answer(writer, items("b", version="7") if restored and len(asked) > 1 else items("a", version="900"))
        else:
            begin(writer)
            await writer.drain()
            await asyncio.sleep(60)

    async with scripted(script) as client, running(Reflector(client, ConfigMap, metrics=metrics)) as found:
        await eventually(lambda: sum("watch=true" in path for path in asked) == 3)
        assert list(content(found)) == ["b" if restored else "a"]
    assert metrics.counted("pymesh_kubernetes_lists") == lists


async def test_half_an_event_is_none_and_separators_of_unicode_are_no_line_ends() -> None:
    watches = 0

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        nonlocal watches
        if "watch=true" not in path:
            answer(writer, items("a"))
            return
        watches += 1
        begin(writer)
        whole = event("ADDED", "b", "2", text="one\u0085two\u2028three") + event("ADDED", "c", "3")
        writer.write(whole[:-9] if watches == 1 else event("ADDED", "c", "3"))
        await writer.drain()
        if watches > 1:
            await asyncio.sleep(60)

    async with scripted(script) as client, running(Reflector(client, ConfigMap)) as found:
        await eventually(lambda: sorted(content(found)) == ["a", "b", "c"])
        assert content(found)["b"] == {"text": "one\u0085two\u2028three"}


# --- Trouble ---------------------------------------------------------------------------------------------------------


async def test_a_kind_that_is_not_installed_is_found_when_it_appears(api: ApiServer, client: AsyncClient) -> None:
    reflector = Reflector(client, (OldWidget, Widget), optional=True)
    async with running(reflector) as found:
        await eventually(lambda: found.synced)
        assert (dict(found.objects), found.trouble) == ({}, "")
        await install(client)
        await client.create(Widget(metadata={"name": "w", "namespace": "default"}))
        await eventually(lambda: list(found.objects) == [Name("default", "w")])
        assert found.objects[Name("default", "w")]["apiVersion"] == "example.com/v1"
        await client.delete(CustomResourceDefinition, "widgets.example.com")
        await eventually(lambda: not found.objects)
        assert not found.trouble


async def test_a_kind_that_has_to_be_there_and_is_not_is_told(client: AsyncClient) -> None:
    gadgets = create_namespaced_resource("example.com", "v1", "Gadget", "gadgets")
    async with running(Reflector(client, gadgets)) as found:
        await eventually(lambda: found.trouble)
        assert not found.synced
        assert found.waiting() == "gadgets.example.com of the Kubernetes API (404: the kind is not installed)"


async def test_what_must_not_be_read_says_which_verbs_are_missing(api: ApiServer, client: AsyncClient) -> None:
    stranger = connect(api.kubeconfig(api.account_token("default", "default")))
    async with running(Reflector(stranger, ConfigMap)) as found:
        await eventually(lambda: found.trouble)
        assert found.forbidden
        assert "configmaps is forbidden" in found.waiting()
        assert found.waiting().endswith("give the ServiceAccount the verbs get, list and watch)")
    await stranger.close()


async def test_a_server_that_asks_for_time_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflectors, "LAST_DELAY", 1.0)
    times: list[float] = []

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            answer(writer, {"code": 429, "message": "too many"}, "429 Too Many Requests", "retry-after: 1\r\n")
        else:
            answer(writer, items("a"))

    async with scripted(script) as client, running(Reflector(client, ConfigMap)) as found:
        await eventually(lambda: found.synced)
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no JSON\n", "JSON is malformed"),
        (b'{"type":"ADDED","object":{}}\n', "an object has no metadata"),
        (b"x" * 4096, "an event has more than 0 MiB"),
    ],
)
async def test_what_is_not_understood_is_told_and_listed_anew(
    body: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflectors, "MAX_EVENT", 1024)
    lists = 0
    troubles: set[str] = set()

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        nonlocal lists
        if "watch=true" not in path:
            lists += 1
            answer(writer, items(*(f"m{number}" for number in range(lists))))
            return
        begin(writer)
        writer.write(body)
        await writer.drain()

    async with scripted(script) as client:
        reflector = Reflector(client, ConfigMap, notify=lambda: troubles.add(reflector.trouble))
        async with running(reflector) as found:
            await eventually(lambda: len(found.objects) >= 3)
    assert any(said in trouble for trouble in troubles)


async def test_more_objects_than_anyone_has_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflectors, "MAX_OBJECTS", 2)

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        answer(writer, items("a", "b", "c"))

    async with scripted(script) as client, running(Reflector(client, ConfigMap)) as found:
        await eventually(lambda: "more than 2" in found.trouble)
        assert not found.objects


# --- Pieces ----------------------------------------------------------------------------------------------------------


async def install(client: AsyncClient) -> None:
    """Install the CRD of Widgets."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    document = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }
    await client.create(CustomResourceDefinition.from_dict(document))

    async def served() -> bool:
        try:
            async for _ in client.list(Widget, namespace="default"):
                pass
        except ApiError as error:
            return error.status.code != 404
        return True

    await eventually(served)
