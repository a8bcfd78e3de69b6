"""Lists and watches: selections, pages, what a watch tells and when it has to be begun anew."""

import asyncio
from pathlib import Path

import pytest
from lightkube import AsyncClient, KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap

from tests.support.kubernetes.conftest import Server
from tests.support.kubernetes.errors import Object
from tests.support.waiting import eventually

END = "k8s.io/initial-events-end"


def labelled(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}}


def names(listed: Object) -> list[str]:
    return [each["metadata"]["name"] for each in listed["items"]]


@pytest.fixture(scope="module")
def five(server: Server) -> Server:
    """A server with five ConfigMaps of the label `set`."""
    for index in range(5):
        server.create(server.path("configmaps"), labelled(f"five-{index}", set="five", index=str(index)))
    return server


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("set=five,index!=0", "1234"),
        ("set=five,index in (1, 2)", "12"),
        ("set=five,index notin (1,2)", "034"),
        ("set,index==4", "4"),
        ("!set", ""),
    ],
)
def test_labels_select(five: Server, selector: str, found: str) -> None:
    listed = five.get(five.path("configmaps"), labelSelector=selector).ok()
    assert [name for name in names(listed) if name.startswith("five")] == [f"five-{each}" for each in found]


def test_fields_select(five: Server) -> None:
    path = five.path("configmaps")
    assert names(five.get(path, fieldSelector="metadata.name=five-3").ok()) == ["five-3"]
    assert "five-3" not in names(five.get(path, fieldSelector="metadata.name!=five-3").ok())
    everywhere = five.get("/api/v1/configmaps", fieldSelector=f"metadata.namespace={five.namespace}").ok()
    assert "five-3" in names(everywhere)
    code, reason, message = five.get(path, fieldSelector="data.x=y").refusal
    assert (code, reason) == (400, "BadRequest")
    assert message == '"data.x" is not a known field selector: only "metadata.name", "metadata.namespace"'
    assert five.get(five.path("pods"), fieldSelector="a.b=c").refusal[2] == "field label not supported: a.b"
    assert five.get(path, labelSelector="a in b").code == 400


def test_a_list_comes_in_pages_of_one_moment(five: Server) -> None:
    path = five.path("configmaps")
    first = five.get(path, labelSelector="set=five", limit="2").ok()
    assert names(first) == ["five-0", "five-1"]
    assert "remainingItemCount" not in first["metadata"]
    five.create(path, labelled("five-1-more", set="five"))
    second = five.get(path, labelSelector="set=five", limit="9", **{"continue": first["metadata"]["continue"]}).ok()
    assert names(second) == ["five-2", "five-3", "five-4"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in second["metadata"]
    five.ask("DELETE", five.path("configmaps", "five-1-more")).ok()
    assert five.get(path, limit="1").ok()["metadata"]["remainingItemCount"] >= 4
    assert five.get(path, **{"continue": "garbage"}).code == 400


def test_a_list_of_nothing(server: Server) -> None:
    listed = server.get(server.path("persistentvolumeclaims")).ok()
    assert (listed["kind"], listed["items"]) == ("PersistentVolumeClaimList", [])
    assert int(listed["metadata"]["resourceVersion"]) > 0


def test_a_watch_tells_of_a_selection(server: Server) -> None:
    path = server.path("configmaps")
    begin = server.get(path).ok()["metadata"]["resourceVersion"]
    server.create(path, labelled("in", on="yes"))
    server.create(path, labelled("out", on="no"))
    for body in (labelled("in", on="no"), labelled("out", on="yes"), labelled("out", on="yes", more="x")):
        server.ask("PUT", f"{path}/{body['metadata']['name']}", body).ok()
    server.ask("DELETE", f"{path}/out").ok()
    events = server.watch(path, resourceVersion=begin, labelSelector="on=yes")
    told = [(each["type"], each["object"]["metadata"]["name"]) for each in events if each["type"] != "BOOKMARK"]
    assert told == [("ADDED", "in"), ("DELETED", "in"), ("ADDED", "out"), ("MODIFIED", "out"), ("DELETED", "out")]
    versions = [int(each["object"]["metadata"]["resourceVersion"]) for each in events]
    assert versions == sorted(set(versions))
    left = events[1]["object"]["metadata"]
    assert left["labels"] == {"on": "yes"}, "who leaves a selection is told of as it was in there"


def test_a_watch_without_a_version_begins_with_what_is_there(five: Server) -> None:
    path = five.path("configmaps")
    for query in ({}, {"resourceVersion": "0"}):
        events = five.watch(path, labelSelector="set=five", **query)
        assert [each["type"] for each in events] == ["ADDED"] * 5


def test_a_watch_that_streams_the_list_says_when_it_is_through(five: Server) -> None:
    path = five.path("configmaps")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    events = five.watch(path, labelSelector="set=five", **query)
    assert [each["type"] for each in events][:6] == ["ADDED"] * 5 + ["BOOKMARK"]
    bookmark = events[5]["object"]
    assert bookmark["kind"] == "ConfigMap"
    assert bookmark["metadata"]["annotations"] == {END: "true"}
    assert int(bookmark["metadata"]["resourceVersion"]) > 0
    for missing in ("sendInitialEvents", "resourceVersionMatch"):
        rest = {key: value for key, value in query.items() if key != missing}
        said = five.get(path, watch="true", timeoutSeconds="1", **rest)
        assert said.code == 422, missing


def test_a_version_that_is_no_number(server: Server) -> None:
    path = server.path("configmaps")
    assert server.get(path, resourceVersion="x").code in (400, 422, 500)
    assert server.get(path, watch="true", resourceVersion="x").code in (400, 422, 500)


def test_a_watch_from_a_forgotten_version_is_told_so(server: Server) -> None:
    if server.double:
        server.double.compact()
    events = server.watch(server.path("configmaps"), resourceVersion="1")
    assert [each["type"] for each in events] == ["ERROR"]
    status = events[0]["object"]
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    assert status["message"].startswith("too old resource version: 1 (")


def test_a_page_of_a_forgotten_list_is_told_so(five: Server) -> None:
    if five.double is None:
        pytest.skip("a real server forgets after five minutes")
    path = five.path("configmaps")
    token = five.get(path, limit="1").ok()["metadata"]["continue"]
    five.double.compact()
    assert five.get(path, limit="1", **{"continue": token}).refusal[:2] == (410, "Expired")


def test_kubectl_reads_and_waits(server: Server) -> None:
    path = server.path("configmaps")
    server.create(path, labelled("seen", look="here") | {"data": {"a": "b"}})
    table = server.kubectl("get", "configmaps", "-l", "look=here")
    assert table.stdout.split()[:5] == ["NAME", "DATA", "AGE", "seen", "1"]
    assert server.kubectl("get", "cm/seen", "-o", "jsonpath={.data.a}").stdout == "b"
    gone = server.kubectl("delete", "configmap", "seen", "--wait")
    assert gone.stdout.startswith('configmap "seen" deleted'), gone.stderr
    nothing = server.kubectl("get", "configmap", "seen")
    assert nothing.stderr == 'Error from server (NotFound): configmaps "seen" not found\n'


async def test_lightkube_lists_and_watches(server: Server) -> None:
    client = AsyncClient(KubeConfig.from_file(server.kubeconfig).get())
    seen: list[tuple[str, str]] = []

    async def look() -> None:
        async for operation, found in client.watch(ConfigMap, namespace=server.namespace, labels={"by": "lightkube"}):
            assert found.metadata
            seen.append((operation, found.metadata.name or ""))

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(look())
        try:
            made = ConfigMap(metadata=ObjectMeta(name="kept", namespace=server.namespace, labels={"by": "lightkube"}))
            await client.create(made)
            await eventually(lambda: seen == [("ADDED", "kept")], what="the watch to tell of it")
            listed = [each async for each in client.list(ConfigMap, namespace=server.namespace, chunk_size=1)]
            assert "kept" in {each.metadata.name for each in listed if each.metadata}
            await client.delete(ConfigMap, "kept", namespace=server.namespace)
            await eventually(lambda: seen[1:] == [("DELETED", "kept")], what="the watch to tell of its end")
            with pytest.raises(ApiError, match='configmaps "kept" not found'):
                await client.get(ConfigMap, "kept", namespace=server.namespace)
        finally:
            watching.cancel()
    await client.close()


def test_connections_are_cut_and_state_outlives_the_server(server: Server, tmp_path: Path) -> None:
    if server.double is None:
        pytest.skip("not ours to restart")
    path, double = server.path("configmaps"), server.double
    begin = server.create(path, labelled("kept-through"))["metadata"]["resourceVersion"]
    with server.http.stream("GET", path, params={"watch": "true", "resourceVersion": begin}) as answer:
        double.cut()
        with pytest.raises(Exception, match=r"closed|reset|disconnected|incomplete|EOF|Connection"):
            list(answer.iter_lines())
    port = double.port
    double.stop()
    double.start()
    assert double.port == port
    assert server.get(f"{path}/kept-through").code == 200
    server.ask("DELETE", f"{path}/kept-through").ok()
    events = server.watch(path, resourceVersion=begin)
    assert [each["type"] for each in events] == ["DELETED"], "what happened before is still told"
