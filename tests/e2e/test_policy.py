"""Limits that all sidecars of a service keep together, and what becomes of requests while nobody counts them."""

import json
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from os import kill
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import PYMESH, Mesh
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.mesh]

MANIFEST = Path(__file__).parent / "manifests" / "policy.yaml"
CLIENTS = 150

# 150 clients ask for /hold until they get it. Prints a line when all who do not fit have been told so, and at the end
# what they were answered, and how often.
CROWD = """
import asyncio, collections, json
answers, outside = collections.Counter(), set()
async def ask(number):
    while True:
        reader, writer = await asyncio.open_connection("limited", 80)
        writer.write(b"GET /hold HTTP/1.1\\r\\nhost: limited\\r\\nconnection: close\\r\\n\\r\\n")
        head, _, body = (await reader.read()).decode().partition("\\r\\n\\r\\n")
        writer.close()
        status, *fields = head.split("\\r\\n")
        named = dict(field.lower().split(": ", 1) for field in fields)
        answers[status, named.get("proxy-status", ""), named.get("retry-after", ""), body[:60]] += 1
        if " 429 " not in status:
            return
        outside.add(number)
        if len(outside) == %d - 100:
            print("full", flush=True)
        await asyncio.sleep(0.2)
async def main():
    await asyncio.gather(*(ask(number) for number in range(%d)))
asyncio.run(main())
print(json.dumps([[*answer, count] for answer, count in answers.items()]))
""".replace("%d", str(CLIENTS))

# Asks the services in turn, over one connection each, until standard input ends; prints how often each answered what.
TRAFFIC = """
import collections, http.client, json, sys, threading
seen, over = collections.Counter(), threading.Event()
def ask(host):
    connection = http.client.HTTPConnection(host, timeout=10)
    while not over.is_set():
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            seen[f"{host} {answer.status}"] += 1
        except (OSError, http.client.HTTPException) as error:
            seen[f"{host} {error!r}"] += 1
            connection.close()
threads = [threading.Thread(target=ask, args=(host,)) for host in ("open", "last", "closed")]
for thread in threads: thread.start()
for line in sys.stdin: print(json.dumps(dict(seen)), flush=True)  # a copy: the threads go on counting
over.set()
for thread in threads: thread.join()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A client, and an app in two pods behind services with limits."""
    with Mesh("policy", MANIFEST, without="telemetry,ingress,egress") as running:
        eventually_sync(lambda: len(page(running)["rules"]) == 8 and page(running)["sidecars"] == 2, what="leases")
        yield running


# --- Asking, in the networks of the pods: a command of the mesh takes a second ----------------------------------------


def page(mesh: Mesh) -> dict[str, Any]:
    """What the policy service shows at /policy."""
    shown: dict[str, Any] = json.loads(mesh.in_pod("policy.", "curl", "-s", "127.0.0.1:15014/policy"))
    return shown


def rule(mesh: Mesh, name: str) -> dict[str, Any]:
    return next(rule for rule in page(mesh)["rules"] if rule["rule"] == name)


@cache
def limited(mesh: Mesh) -> list[str]:
    return [pod["name"] for pod in mesh.pods() if pod["name"].startswith("limited")]


def inside(mesh: Mesh, path: str) -> list[dict[str, Any]]:
    """What the apps themselves answer."""
    return [json.loads(mesh.in_pod(pod, "curl", "-s", f"127.0.0.1:8080{path}")) for pod in limited(mesh)]


@cache
def address(mesh: Mesh, host: str) -> str:
    return mesh.exec("client", "getent", "ahostsv4", host).split()[0]


def get(mesh: Mesh, host: str, path: str = "/", *arguments: str) -> str:
    """The answer, head and body, to a client with a sidecar."""
    url = f"http://{address(mesh, host)}{path}"
    return mesh.in_pod("client", "curl", "-si", "-m", "10", "-H", f"host: {host}", *arguments, url)


def status(answer: str) -> int:
    return int(answer.split()[1])


def fields(answer: str) -> dict[str, str]:
    """The header fields, names in small letters."""
    lines = answer.partition("\n\n")[0].splitlines()[1:]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def in_the_app(mesh: Mesh) -> int:
    return sum(app["now"] for app in inside(mesh, "/seen"))


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many of `spans` overlap where most do."""
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


# --- What is limited --------------------------------------------------------------------------------------------------


def test_never_more_than_a_hundred_at_once_over_two_sidecars(mesh: Mesh) -> None:
    """150 clients: a hundred get in, the rest is told by whom and when to come back, and the app never sees it."""
    crowd = subprocess.Popen(
        [PYMESH, "exec", "--mesh", mesh.name, "client", "--", "python3", "-c", CROWD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "full\n"
        eventually_sync(lambda: in_the_app(mesh) >= 100, what="a full house", timeout=30)
        assert in_the_app(mesh) == 100
        held = rule(mesh, "ConcurrencyLimit default/limited")
        assert held["held"] == 100
    finally:
        inside(mesh, "/release")
        printed, errors = crowd.communicate(timeout=60)
    assert crowd.returncode == 0, errors
    answers = json.loads(printed.splitlines()[-1])
    let_in = sum(number for line, *_, number in answers if line == "HTTP/1.1 200 OK")
    refused = [answer for answer in answers if answer[0] != "HTTP/1.1 200 OK"]
    assert let_in == CLIENTS
    assert {line for line, *_ in refused} == {"HTTP/1.1 429 Too Many Requests"}
    for _, why, wait, body, _ in refused:
        assert "concurrencylimit default/limited" in why
        assert int(wait) >= 1
        assert "ConcurrencyLimit default/limited" in body
    assert sum(number for *_, number in refused) >= CLIENTS - 100
    spans = [span for app in inside(mesh, "/seen") for span in app["spans"]]
    assert len(spans) == CLIENTS, "a refused request never reaches the app"
    assert most_at_once(spans) == 100


def test_a_rate_is_counted_for_all_sidecars_and_apart_for_each_caller(mesh: Mesh) -> None:
    """Five an hour for each tenant, whichever pod answers."""

    def ask(tenant: str) -> int:
        return status(get(mesh, "rated", "/path", "-H", f"x-tenant: {tenant}"))

    assert Counter(ask("a") for _ in range(8)) == {200: 5, 429: 3}
    assert ask("b") == 200
    refused = get(mesh, "rated", "/path?query=does+not+matter", "-H", "x-tenant: a")
    assert "RateLimit default/rated: 5 an hour for each request.headers[x-tenant], request.path" in refused
    assert "RateLimit default/rated" in fields(refused)["proxy-status"]
    assert int(fields(refused)["retry-after"]) > 600
    counted = rule(mesh, "RateLimit default/rated")
    assert counted["allowed"] == 6
    assert 1 <= counted["denied"] <= 4, "sidecars may remember a refusal for a second"


def test_a_real_envoy_asks_the_same_service(mesh: Mesh) -> None:
    """Over mutual TLS with its own certificate, by ext_authz; and gives the answer to the caller."""
    answers = [get(mesh, "enveloped") for _ in range(3)]
    assert [status(answer) for answer in answers] == [200, 200, 429]
    assert "RateLimit default/enveloped: 2 an hour for each source.principal; try again in" in answers[2]
    assert "RateLimit default/enveloped" in fields(answers[2])["proxy-status"]
    assert 1700 < int(fields(answers[2])["retry-after"]) <= 1800
    counted = rule(mesh, "RateLimit default/enveloped")
    assert (counted["allowed"], counted["denied"]) == (2, 1)


def test_a_new_limit_holds_at_once_and_a_deleted_one_no_more(mesh: Mesh) -> None:
    """Without a request lost on either side of the change."""
    limit = """
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: short, namespace: default}
spec: {targetRefs: [{name: open}], requests: 1, per: Hour, failureMode: Closed}
"""
    with traffic(mesh) as seen:
        mesh.apply(limit)
        eventually_sync(lambda: seen()["open 429"] > 0, what="the new limit")
        mesh.delete(limit)
        gone = eventually_sync(lambda: status(get(mesh, "open")) == 200 and seen(), what="its end")
        eventually_sync(lambda: seen()["open 200"] > gone["open 200"] + 20, what="traffic as before")
    assert set(seen()) == {"open 200", "open 429", "last 200", "closed 200"}


# --- While nobody counts ----------------------------------------------------------------------------------------------


def decided(mesh: Mesh) -> bool:
    """Whether both sidecars have a last decision by now: twenty requests in a row that were let in.

    Before its first question a sidecar has none, and on a busy machine an answer may take longer than is waited for it.
    """
    url = f"http://{address(mesh, 'last')}/?[1-20]"
    codes = mesh.in_pod("client", "curl", "-s", "-o/dev/null", "-w", "%{http_code} ", "-H", "host: last", url)
    return codes.split() == ["200"] * 20


@contextmanager
def traffic(mesh: Mesh) -> Iterator[Any]:
    """Requests to all three without a pause; what became of them so far is what the function given says."""
    eventually_sync(lambda: decided(mesh), what="a last decision")
    command = [PYMESH, "exec", "--mesh", mesh.name, "client", "--", "python3", "-uc", TRAFFIC]
    asking = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert asking.stdin is not None
    assert asking.stdout is not None
    last: Counter[str] = Counter()

    def seen() -> Counter[str]:
        if asking.poll() is None:
            print("now", file=asking.stdin, flush=True)
            last.update(Counter(json.loads(asking.stdout.readline())) - last)
        return Counter(last)

    try:
        eventually_sync(lambda: {"open 200", "last 200", "closed 200"} <= seen().keys(), what="traffic to flow")
        yield seen
        before = seen()
        eventually_sync(lambda: seen()["open 200"] > before["open 200"] + 50, what="traffic to go on")
        before = seen()
        eventually_sync(lambda: seen()["closed 200"] > before["closed 200"] + 50, what="traffic to go on")
    finally:
        asking.stdin.close()
        last.update(Counter(json.loads(asking.stdout.readlines()[-1])) - last)
        asking.wait(timeout=20)
        asking.stdout.close()


def test_while_the_policy_service_stands_still_only_what_is_closed_is_refused(mesh: Mesh) -> None:
    """SIGSTOP: the connections stay, and nobody answers."""
    with traffic(mesh) as seen:
        pids = mesh.pids("policy")
        for pid in pids:
            kill(pid, signal.SIGSTOP)
        try:
            refused = eventually_sync(lambda: status(said := get(mesh, "closed")) == 503 and said, what="a refusal")
            assert refused.endswith("ConcurrencyLimit default/closed: the policy service is away\n")
            assert "UAEX policy_unavailable{ConcurrencyLimit default/closed}" in fields(refused)["proxy-status"]
            before = seen()
            eventually_sync(lambda: seen()["last 200"] > before["last 200"] + 200, what="traffic without answers")
        finally:
            for pid in pids:
                kill(pid, signal.SIGCONT)
        eventually_sync(lambda: status(get(mesh, "closed")) == 200, what="its return to be noticed")
    assert set(seen()) == {"open 200", "last 200", "closed 200", "closed 503"}


def test_when_the_policy_service_is_killed_it_comes_back_and_is_found_again(mesh: Mesh) -> None:
    """SIGKILL: the connections break, and its book is gone."""
    with traffic(mesh) as seen:
        for pid in mesh.pids("policy"):
            kill(pid, signal.SIGKILL)
        eventually_sync(lambda: seen()["closed 503"] > 0, what="the loss to be noticed")
        eventually_sync(
            lambda: mesh.pod("policy")["is_ready"] and status(get(mesh, "closed")) == 200,
            what="the policy service, and that it is found",
            timeout=40,
        )
    assert set(seen()) == {"open 200", "last 200", "closed 200", "closed 503"}
    eventually_sync(lambda: page(mesh)["sidecars"] == 2, what="both sidecars at the new service")


def test_the_record_of_a_request_tells_what_the_policy_service_said(mesh: Mesh) -> None:
    """For whoever asks for its journey."""

    def told() -> str:
        number = str(next(numbers))
        assert status(get(mesh, "last", "/", "-H", f"x-request-id: {number}")) == 200
        pages = [mesh.in_pod(pod, "curl", "-s", f"127.0.0.1:15000/requests?id={number}") for pod in limited(mesh)]
        (record,) = [record for shown in pages for record in json.loads(shown)]
        return str(record["notes"]["policy"])

    numbers = count(1)
    # On a busy machine an answer may take longer than a request waits for it: then that is what is told.
    note = eventually_sync(lambda: "asked" in (said := told()) and said, what="an answer in time")
    assert re.fullmatch(
        r"ConcurrencyLimit default/last: slot 1 of 50; RateLimit default/last: allowed, asked, [\d.]+ ms", note
    )


# --- Without one ------------------------------------------------------------------------------------------------------


def test_a_mesh_without_a_policy_service_says_so_and_goes_by_the_failure_modes(tmp_path: Path) -> None:
    """The same services and limits, one pod, `--without policy`."""
    documents = MANIFEST.read_text().split("\n---\n")
    few = [text.replace("replicas: 2", "replicas: 1") for text in documents if "enveloped" not in text]
    (manifest := tmp_path / "policy.yaml").write_text("\n---\n".join(few))
    shutil.copy(MANIFEST.with_name("limited.py"), tmp_path)
    other = Mesh("nopolicy")
    other.run("down", check=False)
    try:
        said = other.run("up", "-f", str(manifest), "--without", "policy,telemetry,ingress,egress")
        assert "no policy service runs in this mesh" in said.stdout + said.stderr
        assert {pod["name"] for pod in other.pods() if pod["namespace"] == "pymesh-system"} == {"pymesh-controlplane"}
        assert status(get(other, "open")) == 200
        refused = get(other, "closed")
        assert status(refused) == 503
        assert refused.endswith("ConcurrencyLimit default/closed: the policy service is away\n")
    finally:
        other.run("down")
