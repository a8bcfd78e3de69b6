"""`pymesh validate`: no mesh, no root, every problem, an exit status for CI."""

import json
import os
import subprocess
import sys
from pathlib import Path

PYMESH = str(Path(sys.executable).with_name("pymesh"))
NOBODY = 65534

WRONG = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route: [{destination: {host: reviews}, weigth: 10}]
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {ports: [{port: 0}]}
"""
FINE = "{apiVersion: v1, kind: Service, metadata: {name: ratings}, spec: {ports: [{name: http, port: 80}]}}"
ODD = (
    FINE
    + "\n---\n"
    + WRONG.split("---", maxsplit=1)[0].replace(", weigth: 10", "").replace("host: reviews", "host: ratings")
)


def validate(*arguments: str, text: str = "", user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYMESH, "validate", "-f", "-", *arguments], input=text, capture_output=True, text=True, timeout=30, user=user
    )


def test_every_problem_has_its_line_and_the_status_is_1() -> None:
    done = validate(text=WRONG)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        (
            "standard input:7:44: VirtualService default/reviews: spec.http[0].route[0].weigth: error: "
            "unknown field 'weigth' in spec.http[0].route[0]; did you mean 'weight'?"
        ),
        (
            "standard input:12:17: Service default/ratings: spec.ports[0].port: error: "
            "the number 0 is not a port number between 1 and 65535"
        ),
    ]
    assert done.stderr.startswith("pymesh: 2 errors; judged by themselves: --mesh NAME or --context NAME ")


def test_programs_get_json() -> None:
    done = validate("-o", "json", text=WRONG)
    assert done.returncode == 1
    first, _ = json.loads(done.stdout)
    assert (first["severity"], first["file"], first["line"], first["column"]) == ("error", "standard input", 7, 44)
    assert (first["resource"], first["path"]) == ("VirtualService default/reviews", "spec.http[0].route[0].weigth")
    assert json.loads(validate("-o", "json", text=FINE).stdout) == []


def test_warnings_alone_are_no_failure() -> None:
    done = validate(text=ODD)
    assert (done.returncode, done.stderr) == (0, "valid, with 1 warning\n")
    assert "warning: there is no service reviews.default.svc.cluster.local" in done.stdout


def test_anyone_may_validate() -> None:
    """Without root and without a mesh; the interpreter must be readable, as the sidecar's user needs it to be."""
    done = validate(text=FINE, user=None if os.geteuid() else NOBODY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "valid\n")


def test_what_every_mesh_has_is_there() -> None:
    """A Gateway for the ingress gateway is nothing to warn of, although no manifest has that pod."""
    gateway = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
"""
    assert validate(text=gateway).stdout == ""
    assert "no pod has the labels istio=nobody" in validate(text=gateway.replace("ingressgateway", "nobody")).stdout
