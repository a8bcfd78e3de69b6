"""What the heads of one proxied request cost in Python alone: parsed, changed as a proxy has to, and written out.

    python -m benchmarks.micro.heads [--profile KIND]

Nothing here repeats itself as a whole: paths, ids, cookies, lengths and tags differ from message to message, as users'
do. Prints nanoseconds of CPU per message for each step, the best of several rounds, for three hops: a browser's GET and
a client's POST that enter the mesh, and the GET as it comes from another sidecar.
"""

import argparse
import cProfile
import itertools
import pstats
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from time import process_time_ns

from pymesh_proxy import forwarding
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request, parse_response
from pymesh_proxy.codec.shape import NO_FIELDS
from pymesh_proxy.config.model import HttpManager, ServerHeader
from pymesh_proxy.routing import Forward, Route
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.endpoint import Endpoint

MESSAGES = 2_000
ROUNDS = 15

GET = """GET /reviews/{number}?page={page} HTTP/1.1
Host: reviews.default.svc.cluster.local:9080
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9
Accept-Encoding: gzip, deflate, br
Accept-Language: en-US,en;q=0.5
X-Forwarded-For: 10.0.0.{byte}
Cookie: session={token}; theme=dark
Cache-Control: no-cache
X-Custom-Header: some value here
Authorization: Bearer {token}

"""
POST = """POST /api/orders/{number} HTTP/1.1
Host: orders.default.svc.cluster.local:9080
User-Agent: python-requests/2.32.3
Accept-Encoding: gzip, deflate
Accept: */*
Connection: keep-alive
traceparent: 00-{token}-{half}-01
Content-Type: application/json
Content-Length: {length}

"""
SECOND_HOP = """GET /reviews/{number}?page={page} HTTP/1.1
Host: reviews.default.svc.cluster.local:9080
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9
Accept-Encoding: gzip, deflate, br
Accept-Language: en-US,en;q=0.5
Cookie: session={token}; theme=dark
x-forwarded-proto: http
x-request-id: {token}
x-envoy-expected-rq-timeout-ms: 15000

"""
NGINX = """HTTP/1.1 200 OK
Server: nginx/1.22.1
Date: Sun, 22 Nov 2026 20:00:{second} GMT
Content-Type: text/plain
Content-Length: {length}
Last-Modified: Sun, 22 Nov 2026 10:00:00 GMT
Connection: keep-alive
ETag: "{half}"
Accept-Ranges: bytes

"""
PYTHON = """HTTP/1.1 201 Created
content-type: application/json
content-length: {length}
server: uvicorn
date: Sun, 22 Nov 2026 20:00:{second} GMT

"""
SIDECAR = """HTTP/1.1 200 OK
content-type: text/html; charset=utf-8
content-length: {length}
set-cookie: session={token}; Path=/
date: Sun, 22 Nov 2026 20:00:{second} GMT
server: envoy
x-envoy-upstream-service-time: {byte}

"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A hop: the request's and the response's template, and where and how the proxy stands."""

    request: str
    response: str
    manager: HttpManager
    facts: Facts


OUTBOUND = Facts("outbound", "10.0.0.1:41000", "10.0.0.2:9080")
KINDS = {
    "get": Kind(GET, NGINX, HttpManager("edge", None, "r"), OUTBOUND),
    "post": Kind(POST, PYTHON, HttpManager("out", None, "r", server_header=ServerHeader.PASS_THROUGH), OUTBOUND),
    "second hop": Kind(
        SECOND_HOP, SIDECAR, HttpManager("in", None, "r", server_header=ServerHeader.PASS_THROUGH),
        Facts("inbound", "10.0.0.1:41000", "10.0.0.2:9080"),
    ),
}  # fmt: skip
FORWARD = Forward((("service", 1),))
ROUTE = Route("route", "host", "", lambda _: True, FORWARD)
ENDPOINT = Endpoint("127.0.0.1", 80)


def messages(template: str, seed: int) -> list[bytes]:
    """Messages of one kind, none of them like another."""
    random = Random(seed)
    text = template.replace("\n", "\r\n")
    return [
        text.format(
            number=random.randrange(1_000_000), page=random.randrange(100), byte=random.randrange(256),
            token=f"{random.getrandbits(128):032x}", half=f"{random.getrandbits(64):016x}",
            length=random.randrange(100_000), second=random.randrange(10, 60),
        ).encode()
        for _ in range(MESSAGES)
    ]  # fmt: skip


def parsed(parse: Callable[..., tuple[Head, int] | None], received: list[bytes]) -> list[Head]:
    """The heads of messages that come over one connection."""
    heads, like = [], NO_FIELDS
    for data in received:
        found = parse(data, like=like)
        assert found is not None
        heads.append(found[0])
        like = found[0].shape
    return heads


def send_requests(kind: Kind, heads: list[Head]) -> None:
    """What becomes of a request's head between its parser and the upstream's socket, routes and filters aside."""
    manager, facts = kind.manager, kind.facts
    for head in heads:
        forwarding.prepare_request(head, manager, facts)
        forwarding.canonicalize(head, manager, facts)
        forwarding.apply_route(head, ROUTE, FORWARD, manager)
        forwarding.request_bytes(head, FORWARD, ENDPOINT)


def send_responses(kind: Kind, heads: list[Head]) -> None:
    """The same for a response's."""
    manager, inbound = kind.manager, kind.facts.direction == "inbound"
    for head in heads:
        if inbound:
            forwarding.disown(head)
        forwarding.mutate(head, ROUTE.response_headers)
        forwarding.response_bytes(head, manager, request_id="id", service_time=0.0129, minor=1, close=False, wrap=False)


def once(kind: Kind, requests: list[bytes], responses: list[bytes]) -> list[int]:
    """Nanoseconds for all messages: request parsed, sent; response parsed, sent."""
    times = [process_time_ns()]
    request_heads = parsed(parse_request, requests)
    times.append(process_time_ns())
    send_requests(kind, request_heads)
    times.append(process_time_ns())
    response_heads = parsed(parse_response, responses)
    times.append(process_time_ns())
    send_responses(kind, response_heads)
    times.append(process_time_ns())
    return [end - begin for begin, end in itertools.pairwise(times)]


def main(profiled: str | None) -> None:
    """Run the rounds."""
    steps = ("parse request", "send request", "parse response", "send response", "sum")
    print(f"{'ns per message':14}", *(f"{step:>14}" for step in steps))
    for name, kind in KINDS.items():
        requests, responses = messages(kind.request, 1), messages(kind.response, 2)
        if name == profiled:
            with cProfile.Profile() as profile:
                for _ in range(ROUNDS):
                    once(kind, requests, responses)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        rounds = [once(kind, requests, responses) for _ in range(ROUNDS)]
        best = [min(step) // MESSAGES for step in zip(*rounds, strict=True)]
        print(f"{name:14}", *(f"{step:14,}" for step in (*best, sum(best))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", choices=KINDS)
    main(parser.parse_args().profile)
