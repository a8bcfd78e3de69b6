"""The sample's apps as processes on loopback, without a mesh: pages, stars, headers, missing parts, a clean end."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.threaded import serving

SAMPLE = Path(__file__).parents[2] / "deploy/samples/bookinfo"


class App:
    """One app of the sample, running."""

    def __init__(self, name: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, f"apps/{name}.py", "0"],
            cwd=SAMPLE, stdout=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"], "LISTEN_ADDRESS": "127.0.0.1", "SERVICE_NAME": name, **env},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"port (\d+)", line)
        assert found, f"{name} said {line!r}"
        self.port = int(found[1])
        self.host = f"127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def json(self, path: str, **headers: str) -> Any:
        status, body = self.get(path, **headers)
        assert status == 200, body
        return json.loads(body)

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def start() -> Iterator[Any]:
    apps: list[App] = []

    def starter(name: str, **env: str) -> App:
        apps.append(App(name, **env))
        return apps[-1]

    yield starter
    for app in apps:
        app.stop()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_page_is_put_together_from_all_four(start: Any) -> None:
    ratings, details = start("ratings"), start("details")
    reviews = start("reviews", SERVICE_VERSION="v3", STAR_COLOR="red", RATINGS_HOSTNAME=ratings.host)
    page = start("productpage", DETAILS_HOSTNAME=details.host, REVIEWS_HOSTNAME=reviews.host)
    status, html = page.get("/productpage")
    assert status == 200
    assert "The Comedy of Errors" in html
    assert "William Shakespeare" in html
    assert "Reviews (v3)" in html
    assert html.count("★") == 9
    assert 'color:red"' in html
    assert page.json("/api/v1/products") == [{"id": "0", "title": "The Comedy of Errors"}]
    assert page.json("/api/v1/products/0")["year"] == 1595
    found = page.json("/api/v1/products/0/reviews?x=1")
    assert [review["rating"]["stars"] for review in found["reviews"]] == [5, 4]
    for path in ("/nothing", "/productpages", "/api/v1/products/1", "/api/v1/products/0/prices", "/"):
        assert page.get(path)[0] == 404


@pytest.mark.parametrize(("version", "color"), [("v1", ""), ("v2", "black"), ("v3", "red")])
def test_versions_of_reviews_differ_in_their_stars(start: Any, version: str, color: str) -> None:
    ratings = start("ratings")
    reviews = start("reviews", SERVICE_VERSION=version, STAR_COLOR=color, RATINGS_HOSTNAME=ratings.host)
    answer = reviews.json("/reviews/0")
    assert answer["version"] == version
    colors = {review["rating"]["color"] for review in answer["reviews"] if "rating" in review}
    assert colors == ({color} if color else set())


def test_parts_that_are_missing_are_said_to_be_missing(start: Any) -> None:
    gone = f"127.0.0.1:{unused_port()}"
    reviews = start("reviews", SERVICE_VERSION="v2", STAR_COLOR="black", RATINGS_HOSTNAME=gone)
    page = start("productpage", DETAILS_HOSTNAME=gone, REVIEWS_HOSTNAME=reviews.host)
    status, html = page.get("/productpage")
    assert status == 200
    assert "Product details are not available" in html
    assert html.count("ratings are not available") == 2
    lonely = start("productpage", DETAILS_HOSTNAME=gone, REVIEWS_HOSTNAME=gone)
    assert "Reviews are not available" in lonely.get("/productpage")[1]
    status, body = lonely.get("/api/v1/products/0/reviews")
    assert status == 503
    assert "did not answer" in body


def test_trace_headers_are_passed_on_and_nothing_else_is(start: Any) -> None:
    seen: list[dict[str, str]] = []

    class Upstream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Upstream)) as upstream:
        page = start("productpage", DETAILS_HOSTNAME=f"127.0.0.1:{upstream.port}")
        sent = {
            "x-request-id": "id-1", "traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": "k=v", "b3": "0",
            "x-b3-traceid": "1", "x-b3-spanid": "2", "x-b3-parentspanid": "3", "x-b3-sampled": "1", "x-b3-flags": "0",
            "x-ot-span-context": "s", "end-user": "jason",
        }  # fmt: skip
        page.json("/api/v1/products/0", authorization="secret", cookie="c=1", **sent)
    [headers] = seen
    assert {name: value for name, value in headers.items() if name in sent} == sent
    assert headers.keys() - sent.keys() == {"host", "accept-encoding"}


def test_whoami_shows_the_caller_that_the_sidecar_names(start: Any) -> None:
    reviews = start("reviews", SERVICE_VERSION="v2")
    page = start("productpage", REVIEWS_HOSTNAME=reviews.host)
    spiffe = "spiffe://cluster.local/ns/bookinfo/sa/visitor"
    certificate = f'By=spiffe://x/ns/y/sa/z;Hash=ab;Subject="";URI={spiffe}'
    assert reviews.json("/whoami", x_forwarded_client_cert=certificate) == {
        "app": "reviews", "version": "v2", "caller": spiffe, "x-forwarded-client-cert": certificate,
    }  # fmt: skip
    assert page.json("/whoami")["caller"] == ""
    # The header speaks of one hop: it is not passed on.
    assert page.json("/whoami/reviews", x_forwarded_client_cert=certificate)["app"] == "reviews"
    assert page.json("/whoami/reviews", x_forwarded_client_cert=certificate)["caller"] == ""


def test_connections_are_kept_until_something_comes_that_is_not_a_plain_get(start: Any) -> None:
    ratings = start("ratings")
    connection = http.client.HTTPConnection("127.0.0.1", ratings.port, timeout=10)
    for _ in range(3):
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert (answer.status, answer.version, answer.will_close) == (200, 11, False)
        answer.read()
    connection.request("GET", "/ratings/7", body=b"GET /smuggled HTTP/1.1\r\n\r\n")
    answer = connection.getresponse()
    assert json.loads(answer.read())["id"] == "7"
    assert answer.will_close
    connection.close()
    with socket.create_connection(("127.0.0.1", ratings.port), timeout=10) as garbage:
        garbage.sendall(b"\x00\x01 \xff\r\n\r\n")
        assert b"400" in garbage.recv(4096)
    connection = http.client.HTTPConnection("127.0.0.1", ratings.port, timeout=10)
    connection.request("POST", "/ratings/0", body=b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_sigterm_closes_idle_connections_and_lets_the_request_in_flight_finish(start: Any) -> None:
    held, asked = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            held.wait(10)
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Slow)) as upstream:
        page = start("productpage", DETAILS_HOSTNAME=f"127.0.0.1:{upstream.port}")
        idle = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
        idle.request("GET", "/health")
        idle.getresponse().read()
        busy = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
        busy.request("GET", "/api/v1/products/0")
        assert asked.wait(10)
        page.process.send_signal(signal.SIGTERM)
        assert idle.sock is not None
        assert idle.sock.recv(1) == b""
        held.set()
        answer = busy.getresponse()
        assert answer.status == 200
        assert answer.read() == b"{}"
        assert answer.getheader("connection") == "close"
        assert page.process.wait(10) == 0
        idle.close()
        busy.close()


def test_the_manifests_name_only_what_is_there() -> None:
    documents = [d for file in sorted(SAMPLE.glob("*.yaml")) for d in yaml.safe_load_all(file.read_text())]
    of_kind = {kind: [d for d in documents if d["kind"] == kind] for kind in {d["kind"] for d in documents}}
    accounts = {d["metadata"]["name"] for d in of_kind["ServiceAccount"]} | {"default"}
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in of_kind["Deployment"]]
    for deployment in of_kind["Deployment"]:
        spec = deployment["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        pod = spec["template"]["spec"]
        assert pod.get("serviceAccountName", "default") in accounts
        [container] = pod["containers"]
        if container["command"][0] == "python3":
            assert (SAMPLE / container["command"][1]).is_file()
    for service in of_kind["Service"]:
        assert any(service["spec"]["selector"].items() <= found.items() for found in labels)
    [rule] = of_kind["DestinationRule"]
    routes = {found["metadata"]["name"]: found["spec"]["http"] for found in of_kind["VirtualService"]}
    subsets = {subset["name"]: subset["labels"] for subset in rule["spec"]["subsets"]}
    for subset in subsets.values():
        assert any({"app": "reviews", **subset}.items() <= found.items() for found in labels)
    for route in routes["reviews"]:
        assert {target["destination"]["subset"] for target in route["route"]} <= subsets.keys()
        assert sum(target.get("weight", 100) for target in route["route"]) == 100
    services = {service["metadata"]["name"] for service in of_kind["Service"]}
    assert {target["destination"]["host"] for route in routes["bookinfo"] for target in route["route"]} <= services
    for limit in of_kind["ConcurrencyLimit"]:
        assert {target["name"] for target in limit["spec"]["targetRefs"]} <= services
