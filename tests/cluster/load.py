"""Runs in a pod: GETs of one URL on connections that are kept, until a line comes in; then says what came of them.

    python3 load.py URL WORKERS

Standard library only: it is sent into pods as text.
"""

import http.client
import json
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

# Seconds for an answer, and between two requests of a worker.
TIMEOUT = 15.0
PAUSE = 0.02
# Failures that are told one by one.
MAX_TOLD = 20

url = urlsplit(sys.argv[1])
statuses: Counter[int] = Counter()
versions: Counter[str] = Counter()
failures: list[str] = []
repeated: list[str] = []
ended = threading.Event()
answered = threading.Event()


def version_of(body: bytes) -> str:
    """`version` of an answer that is JSON and has one."""
    try:
        return str(json.loads(body).get("version", ""))
    except (ValueError, AttributeError):
        return ""


def work() -> None:
    """Ask until the end."""
    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=TIMEOUT)
    while not ended.is_set():
        fresh = connection.sock is None
        try:
            connection.request("GET", url.path or "/")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            # An idle connection may be closed by whoever served it, at any time (RFC 9110, 9.2.2): a GET is repeated.
            harmless = not fresh and isinstance(error, http.client.RemoteDisconnected | ConnectionError)
            (repeated if harmless else failures).append(f"{time.strftime('%T')} {type(error).__name__}: {error}")
            continue
        statuses[answer.status] += 1
        if answer.status != 200:
            failures.append(f"{time.strftime('%T')} {answer.status} {body[:200]!r}")
        if version := version_of(body):
            versions[version] += 1
        answered.set()
        ended.wait(PAUSE)
    connection.close()


workers = [threading.Thread(target=work) for _ in range(int(sys.argv[2]))]
for worker in workers:
    worker.start()
answered.wait(TIMEOUT)
print("first answer" if answered.is_set() else f"no answer: {failures[:MAX_TOLD]}", flush=True)
sys.stdin.readline()
ended.set()
for worker in workers:
    worker.join()
told = {"failures": failures[:MAX_TOLD], "failed": len(failures), "repeated": len(repeated)}
print(json.dumps({"statuses": statuses, "versions": versions, **told}))
