"""Lists and events become the objects that the server has, whatever happens in between."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.resources.documents import MAX_DEPTH
from pymesh.resources.nesting import is_deeper
from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.replica import Event, ExpiredError, Name, Reading, RefusedError, Replica

READING = Reading("v1", "ConfigMap", trim.everything)


def encoded(name: str, version: int, data: int = 0) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "resourceVersion": str(version), "managedFields": [{"x": 1}]}
    return {"metadata": metadata, "data": {"value": str(data)}}


class Server:
    """What an API server keeps of one kind: the objects, and the events since the last compaction."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.version = 1
        self.compacted = 0

    def write(self, name: str, data: int) -> None:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = encoded(name, self.version, data)
        self.events.append((self.version, kind, self.objects[name]))

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            gone = self.objects.pop(name)
            gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
            self.events.append((self.version, "DELETED", gone))

    def compact(self) -> None:
        self.compacted = self.version
        self.events.clear()

    def page(self, objects: list[dict[str, Any]], version: int, rest: str) -> bytes:
        return json.dumps({"metadata": {"resourceVersion": str(version), "continue": rest}, "items": objects}).encode()

    def watch(self, version: int) -> list[bytes]:
        """The lines of a watch from `version` on, those that there are by now."""
        if version < self.compacted:
            status = {"kind": "Status", "code": 410, "message": "too old resource version"}
            return [json.dumps({"type": "ERROR", "object": status}).encode()]
        return [json.dumps({"type": kind, "object": value}).encode() for at, kind, value in self.events if at > version]

    def bookmark(self) -> bytes:
        metadata = {"resourceVersion": str(self.version)}
        return json.dumps({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "metadata": metadata}}).encode()


class Client:
    """Asks as the reflector does: a list where no version is known, else a watch, of which a part may be lost."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.replica = Replica()
        self.pages: list[bytes] = []  # of a list that has begun, those that are still to come
        self.parts: dict[Name, Any] = {}

    def step(self, events: int, bookmark: bool) -> None:
        """Take the next page, or at most `events` of the next watch before it is cut; a bookmark only at its end."""
        if not self.replica.version:
            self._list()
            return
        lines = self.server.watch(int(self.replica.version))
        try:
            for line in lines[:events]:
                self.replica.apply(READING.event(line))
            if bookmark and len(lines) <= events:
                self.replica.apply(READING.event(self.server.bookmark()))
        except ExpiredError:
            self.replica.expire()

    def _list(self) -> None:
        if not self.pages:
            # Every page of a list is of the moment at which the list began.
            found, half = list(self.server.objects.values()), len(self.server.objects) // 2
            self.parts = {}
            self.pages = [
                self.server.page(found[:half], self.server.version, "more"),
                self.server.page(found[half:], self.server.version, ""),
            ]
        page = READING.page(self.pages.pop(0))
        self.parts |= page.objects
        if not page.rest:
            self.replica.replace(self.parts, page.version)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from("abcd"), st.integers(0, 3)),
        st.tuples(st.just("delete"), st.sampled_from("abcd"), st.just(0)),
        st.tuples(st.just("compact"), st.just(""), st.just(0)),
        st.tuples(st.just("ask"), st.sampled_from(["", "bookmark"]), st.integers(0, 3)),
        st.tuples(st.just("cut"), st.just(""), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_happens_in_between_the_objects_are_the_servers(steps: list[tuple[str, str, int]]) -> None:
    server = Server()
    client = Client(server)
    for what, name, number in steps:
        if what == "write":
            server.write(name, number)
        elif what == "delete":
            server.delete(name)
        elif what == "compact":
            server.compact()
        elif what == "cut":
            client.pages = []  # a list that is broken off begins anew
        else:
            client.step(number, bookmark=bool(name))
    for _ in range(5):  # the rest of a list, an expired watch, both pages of the next list, a watch
        client.step(1000, bookmark=False)
    found = {name.name: value["data"]["value"] for name, value in client.replica.objects.items()}
    assert found == {name: value["data"]["value"] for name, value in server.objects.items()}


def test_an_object_that_says_the_same_stays_the_same_object() -> None:
    """What has been made of it need not be made again, and nobody is woken for it."""

    def kept(value: dict[str, Any]) -> dict[str, Any]:
        return {"data": value["data"]}

    reading, replica = Reading("v1", "ConfigMap", kept), Replica()
    assert replica.replace(reading.page(Server().page([encoded("a", 2)], 2, "")).objects, "2")
    before = replica.objects[Name("default", "a")]
    line = json.dumps({"type": "MODIFIED", "object": encoded("a", 3)}).encode()
    assert not replica.apply(reading.event(line))
    assert not replica.replace(reading.page(Server().page([encoded("a", 9)], 9, "")).objects, "9")
    assert replica.objects[Name("default", "a")] is before
    assert replica.version == "9"


def test_a_list_tells_what_has_gone() -> None:
    replica = Replica()
    replica.replace({Name("", "a"): {}, Name("", "b"): {}}, "5")
    assert replica.replace({Name("", "b"): {}}, "9")
    assert list(replica.objects) == [Name("", "b")]


def test_an_object_that_is_gone_already_is_no_news() -> None:
    replica = Replica({}, "5")
    assert not replica.apply(Event("DELETED", Name("", "a"), {}, "6"))
    assert replica.version == "6"


def test_the_items_of_a_list_get_their_kind() -> None:
    found = READING.page(Server().page([encoded("a", 2)], 2, "")).objects[Name("default", "a")]
    assert (found["apiVersion"], found["kind"]) == ("v1", "ConfigMap")
    assert "managedFields" not in found["metadata"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}', ExpiredError),
        (b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd is away"}}', RefusedError),
        (b'{"type":"SURPRISE","object":{"metadata":{}}}', ValueError),
        (b'{"type":"ADDED","object":{"data":{}}}', ValueError),
    ],
)
def test_what_is_no_event_of_an_object_is_an_error(line: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        READING.event(line)


def test_a_list_without_a_version_cannot_be_gone_on_from() -> None:
    with pytest.raises(ValueError, match="resourceVersion"):
        READING.page(b'{"items":[]}')


# --- Nested deep -----------------------------------------------------------------------------------------------------

DEEP = b'{"a":' * 5_000 + b"1" + b"}" * 5_000


def nested(name: str, version: int, data: bytes = DEEP) -> bytes:
    return json.dumps({**encoded(name, version), "data": "@"}).encode().replace(b'"@"', data)


@pytest.mark.parametrize("data", [DEEP, b'{"a":' * 700 + b"1" + b"}" * 700], ids=["deep", "less-deep"])
def test_an_object_that_is_nested_too_deep_keeps_nobody_else_back(data: bytes) -> None:
    """More levels than there may be calls, and a number at which only the next step would fail."""
    items = b", ".join([nested("bad", 1, data), json.dumps(encoded("good", 2, 7)).encode()])
    page = READING.page(b'{"metadata": {"resourceVersion": "9"}, "items": [' + items + b"]}")
    bad, good = page.objects[Name("default", "bad")], page.objects[Name("default", "good")]
    assert good["data"] == {"value": "7"}
    assert is_deeper(bad, MAX_DEPTH), "it is not to be taken for what it says now"
    assert not is_deeper(bad, MAX_DEPTH + 1)

    event = READING.event(b'{"type": "MODIFIED", "object": ' + nested("bad", 1, data) + b"}")
    assert (event.name, event.version) == (Name("default", "bad"), "1")
    assert event.object == bad, "it is the same in a list and in an event"


def test_what_is_not_kept_may_be_nested_as_deep_as_it_likes() -> None:
    reading = Reading("v1", "ConfigMap", trim.written)
    status = json.dumps({**encoded("good", 3), "status": "@"}).encode().replace(b'"@"', DEEP)
    event = reading.event(b'{"type": "ADDED", "object": ' + status + b"}")
    assert event.object["data"] == {"value": "0"}
    assert "status" not in event.object
    assert not is_deeper(event.object, MAX_DEPTH)
