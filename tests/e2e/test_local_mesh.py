"""`pymesh up` and everything after it, with real processes: one mesh for most tests, its own for those that end it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml

from pymesh_controlplane.cli.mesh import LocalMesh
from pymesh_controlplane.local import network, processes, state
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]

PYMESH = str(Path(sys.executable).parent / "pymesh")
MESH = f"e{os.getpid()}"
OTHER = f"f{os.getpid()}"
# Parts that a mesh does without where only its pods matter.
BARE = ("--without", "policy,telemetry,ingress,egress")

APP = """
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"pod": os.environ["POD"], "version": sys.argv[1], "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

print("listening", flush=True)
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


def deployment(
    name: str, *, version: str = "v1", inject: bool = True, replicas: int = 1, **spec: Any
) -> dict[str, Any]:
    labels = {"app": name, "sidecar.istio.io/inject": str(inject).lower()}
    container = {
        "name": "app",
        "command": ["python3", "app.py"],
        "args": [version],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1},
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 2, **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    body = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "backend"}}


def write(directory: Path, *documents: dict[str, Any], name: str = "mesh.yaml") -> Path:
    path = directory / name
    path.write_text(yaml.safe_dump_all(documents))
    return path


def pymesh(*arguments: str, mesh: str = MESH, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYMESH_MESH": mesh, **more.pop("env", {})}
    done = subprocess.run([PYMESH, *arguments], capture_output=True, text=True, timeout=60, env=environment, **more)
    assert not check or done.returncode == 0, f"{arguments}: {done.stderr}"
    return done


def rows(mesh: str = MESH) -> dict[str, dict[str, Any]]:
    """The pods by the name of their owner; of several the last."""
    return {row["owner"]: row for row in LocalMesh(mesh).rows()}


def owned(owner: str) -> list[dict[str, Any]]:
    return [row for row in LocalMesh(MESH).rows() if row["owner"] == owner]


def curl(pod: str, url: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(pymesh("exec", pod, "--", "curl", "-sS", "-m", "5", url).stdout)
    return answer


def nothing_left(mesh: str) -> bool:
    return not network.owned_namespaces(mesh) and not (state.RUN / mesh).exists()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifests")
    (path / "app.py").write_text(APP)
    return path


@pytest.fixture(scope="module")
def mesh(directory: Path) -> Iterator[str]:
    """A mesh with two pods that have sidecars, `frontend` and `backend`, and one without, `visitor`."""
    documents = [
        *(service(name) for name in ("frontend", "backend", "visitor")),
        ACCOUNT,
        deployment("frontend"),
        deployment("backend", serviceAccountName="backend"),
        deployment("visitor", inject=False),
    ]
    write(directory, *documents)
    try:
        # The gateways have a mesh of their own to be tested in.
        started = pymesh("up", "-f", str(directory), "--timeout", "30", "--without", "ingress,egress")
        assert f"mesh {MESH} is ready" in started.stderr
        yield MESH
    finally:
        pymesh("down")
        assert nothing_left(MESH)


def test_pods_are_ready_with_their_sidecars(mesh: str) -> None:
    pods = {row["owner"]: row for row in json.loads(pymesh("ps", "-o", "json").stdout)}
    assert {name: (row["ready"], row["containers"], row["message"]) for name, row in pods.items()} == {
        "frontend": (2, 2, ""),
        "backend": (2, 2, ""),
        "visitor": (1, 1, ""),
        "pymesh-controlplane": (1, 1, ""),
        "policy": (1, 1, ""),
        "telemetry": (1, 1, ""),
    }
    table = pymesh("ps").stdout
    columns = "NAMESPACE POD READY STATUS RESTARTS AGE IP HOST PORTS REASON"
    assert table.splitlines()[0].split() == columns.split()
    assert "\x1b" not in table, "plain in a pipe"


def test_pilot_knows_every_proxy_and_they_have_taken_what_it_sent(mesh: str) -> None:
    def synced() -> bool:
        proxies = json.loads(pymesh("status", "-o", "json").stdout)["proxies"]
        states = {proxy["proxy"].split("-")[0]: {t["status"] for t in proxy["types"].values()} for proxy in proxies}
        # Secrets are for gateways: sidecars do not ask for them.
        return states == {"frontend": {"SYNCED", "NOT SENT"}, "backend": {"SYNCED", "NOT SENT"}}

    eventually_sync(synced)
    assert "SYNCED" in pymesh("status").stdout


@pytest.mark.parametrize("source", ["visitor", "frontend"])
@pytest.mark.parametrize("name", ["backend", "backend.default", "backend.default.svc.cluster.local"])
def test_any_client_finds_a_service_by_all_its_names(mesh: str, source: str, name: str) -> None:
    assert curl(source, f"http://{name}/")["pod"] == rows()["backend"]["name"]


def test_a_pod_with_a_sidecar_is_known_by_its_identity_and_reaches_one_without(mesh: str) -> None:
    headers = {name.lower(): value for name, value in curl("frontend", "http://backend/")["headers"].items()}
    assert "URI=spiffe://cluster.local/ns/default/sa/default" in headers["x-forwarded-client-cert"]
    assert curl("frontend", "http://visitor/")["pod"].startswith("visitor-")


def test_what_a_sidecar_finds_in_its_pod(mesh: str) -> None:
    def read(path: str) -> str:
        return pymesh("exec", "backend", "-c", "pymesh-proxy", "--", "cat", path).stdout

    claims = jwt.decode(read("/var/run/secrets/tokens/istio-token"), options={"verify_signature": False})
    name = rows()["backend"]["name"]
    assert claims["sub"] == "system:serviceaccount:default:backend"
    assert (claims["aud"], claims["kubernetes.io"]["pod"]["name"]) == (["istio-ca"], name)
    assert 'app="backend"' in read("/etc/pymesh/pod/labels")
    assert "BEGIN CERTIFICATE" in read("/var/run/secrets/istio/root-cert.pem")
    assert (
        read("/etc/resolv.conf").splitlines()[0] == "search default.svc.cluster.local svc.cluster.local cluster.local"
    )
    assert name in read("/etc/hosts")
    assert pymesh("exec", "backend", "-c", "pymesh-proxy", "--", "id", "-u").stdout == "1337\n"
    assert not Path("/etc/pymesh").exists()


def test_exec_is_the_command_as_the_containers_user(mesh: str) -> None:
    assert pymesh("exec", "visitor", "--", "id", "-u").stdout == "65532\n"
    assert pymesh("exec", "visitor", "--", "cat", input="through\n").stdout == "through\n"
    assert pymesh("exec", "visitor", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    missing = pymesh("exec", "visitor", "--", "no-such", check=False)
    assert (missing.returncode, "no-such is not in the container" in missing.stderr) == (127, True)
    nobody = pymesh("exec", "nobody", "--", "true", check=False)
    assert nobody.returncode == 1
    assert "no pod nobody; there are: default/backend-" in nobody.stderr
    assert (
        "has no container x; there are: app, pymesh-init, pymesh-proxy"
        in pymesh("logs", "backend", "-c", "x", check=False).stderr
    )


def test_logs(mesh: str) -> None:
    assert pymesh("logs", "visitor").stdout.startswith("listening\n")
    assert len(pymesh("logs", "backend", "-c", "pymesh-init", "--tail", "1").stdout.splitlines()) == 1
    with subprocess.Popen(
        [PYMESH, "logs", "--mesh", MESH, "visitor", "-f", "--tail", "0"], stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        path = state.named(MESH).pods / "default" / rows()["visitor"]["name"] / "logs/app.log"
        with path.open("a") as log:
            eventually_sync(lambda: Path(f"/proc/{following.pid}/fd").is_dir() and _has_open(following.pid, path))
            log.write("something new\n")
        assert following.stdout.readline() == "something new\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130
    with subprocess.Popen([PYMESH, "logs", "--mesh", MESH, "visitor", "-f"], stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        following.stdout.close()  # as `grep -m1` that has found its line: there is nothing to print, and it ends
        assert following.wait(10) == 141


def _has_open(pid: int, path: Path) -> bool:
    return any(Path(entry).resolve() == path for entry in Path(f"/proc/{pid}/fd").iterdir())


def test_what_was_applied_and_what_is_observed_can_be_asked_for(mesh: str) -> None:
    backend = yaml.safe_load(pymesh("get", "svc", "backend", "-o", "yaml").stdout)
    assert backend["spec"]["clusterIP"].startswith("10.96.")
    name = rows()["backend"]["name"]
    pod = json.loads(pymesh("get", "pod", name, "-o", "json").stdout)
    assert pod["status"]["podIP"] == rows()["backend"]["ip"]
    assert {"type": "Ready", "status": "True"} in pod["status"]["conditions"]
    observed = state.named(MESH).observed
    [piece] = [json.loads(path.read_text()) for path in observed.glob("endpointslice-default.backend-*")]
    assert [endpoint["targetRef"]["name"] for endpoint in piece["endpoints"]] == [name]
    missing = pymesh("get", "vs", "nope", check=False)
    assert (missing.returncode, missing.stderr) == (1, "pymesh: there is no virtualservice/nope\n")


def test_a_killed_app_is_started_again_under_its_name(mesh: str) -> None:
    before = rows()["visitor"]
    os.kill(before["pids"]["app"], signal.SIGKILL)
    after = eventually_sync(lambda: (row := rows()["visitor"])["restarts"] == 1 and row["is_ready"] and row)
    assert after["name"] == before["name"]


def test_a_changed_template_replaces_the_pods_and_the_service_never_has_none(mesh: str, directory: Path) -> None:
    write(directory, service("rolling"), deployment("rolling", inject=False, replicas=2), name="rolling.yaml")
    pymesh("apply", "-f", str(directory / "rolling.yaml"))
    eventually_sync(lambda: sum(row["is_ready"] for row in owned("rolling")) == 2)
    old = {row["name"] for row in owned("rolling")}
    write(directory, deployment("rolling", inject=False, replicas=3, version="v2"), name="rolling.yaml")
    assert pymesh("apply", "-f", str(directory / "rolling.yaml")).stdout == "deployment/rolling (default) configured\n"
    # What is under way at an app that ends at once is lost with it (52, 56); where nobody was it would be 7 or 28.
    ask = "curl -sS -m 2 http://rolling/; case $? in 0|52|56);; *) exit 1;; esac"
    script = f"for i in $(seq 100); do {ask}; sleep 0.02; done"
    answers = pymesh("exec", "visitor", "--", "sh", "-c", script).stdout
    assert '"version": "v2"' in answers
    eventually_sync(lambda: len(owned("rolling")) == 3 and all(row["is_ready"] for row in owned("rolling")))
    assert not old & {row["name"] for row in owned("rolling")}
    pymesh("delete", "deploy", "rolling")
    eventually_sync(lambda: not owned("rolling"))
    refused = pymesh("exec", "visitor", "--", "curl", "-sS", "-m", "5", "http://rolling/", check=False)
    assert refused.returncode == 7, "a Service without endpoints refuses at once"


def test_wrong_manifests_are_refused_whole_with_file_and_line(mesh: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        textwrap.dedent("""\
            {apiVersion: v1, kind: ServiceAccount, metadata: {name: fine}}
            ---
            apiVersion: v1
            kind: Pod
            metadata: {name: broken}
            spec:
              containers:
                - name: app
                  image: example/app
            ---
            a: [b
            """)
    )
    done = pymesh("apply", "-f", str(tmp_path), check=False)
    assert done.returncode == 1
    assert (
        f"{tmp_path}/bad.yaml:8:7: Pod default/broken: spec.containers[0].command: error: container app has no"
        in done.stderr
    )
    assert "malformed YAML" in done.stderr
    assert pymesh("get", "sa", "fine", check=False).returncode == 1
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    assert "not UTF-8 at byte 0" in pymesh("apply", "-f", str(tmp_path / "bad.yaml"), check=False).stderr
    assert "No such file" in pymesh("apply", "-f", str(tmp_path / "nope.yaml"), check=False).stderr


def test_a_pod_says_which_account_and_which_config_map_it_waits_for(mesh: str, tmp_path: Path) -> None:
    volume = {"name": "settings", "configMap": {"name": "settings"}}
    spec = {
        "serviceAccountName": "late",
        "containers": [
            {
                "name": "app",
                "command": ["sleep", "60"],
                "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}],
            }
        ],
        "volumes": [volume],
        "terminationGracePeriodSeconds": 0,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"}, "spec": spec}
    path = str(write(tmp_path, pod))
    pymesh("apply", "-f", path)
    eventually_sync(lambda: "ServiceAccount default/late does not exist" in rows()["late"]["message"])
    account = {**ACCOUNT, "metadata": {"name": "late"}}
    pymesh("apply", "-f", str(write(tmp_path, account, name="account.yaml")))
    eventually_sync(lambda: rows()["late"]["message"] == "waiting for ConfigMap default/settings")
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"mode": "on"}}
    pymesh("apply", "-f", str(write(tmp_path, config, name="config.yaml")))
    eventually_sync(lambda: rows()["late"]["is_ready"])
    assert pymesh("exec", "late", "--", "cat", "/etc/settings/mode").stdout == "on"
    assert "pod/late (default) deleted" in pymesh("delete", "-f", path).stdout


def test_without_a_control_plane_new_pods_say_what_they_wait_for_and_old_ones_work(mesh: str, directory: Path) -> None:
    namespace = ("-n", "pymesh-system")
    control_plane = pymesh("get", "pod", "pymesh-controlplane", *namespace, "-o", "yaml").stdout
    pymesh("delete", "pod", "pymesh-controlplane", *namespace)
    eventually_sync(lambda: "pymesh-controlplane" not in rows())
    try:
        assert curl("frontend", "http://backend/")["pod"].startswith("backend-")
        pymesh("apply", "-f", str(write(directory, deployment("late-app"), name="late.yaml")))
        eventually_sync(lambda: "pymesh-proxy: startup probe: waiting for" in rows()["late-app"]["message"])
    finally:
        pymesh("apply", "-f", "-", *namespace, input=_without_status(control_plane))
    eventually_sync(lambda: rows()["late-app"]["is_ready"], timeout=30)
    pymesh("delete", "-f", str(directory / "late.yaml"))


def _without_status(manifest: str) -> str:
    document = yaml.safe_load(manifest)
    del document["status"]
    return yaml.safe_dump(document)


def test_a_second_up_says_that_the_mesh_runs(mesh: str, directory: Path) -> None:
    again = pymesh("up", "-f", str(directory), check=False)
    assert again.returncode == 1
    assert f"mesh {MESH} runs: pymesh apply -f changes it, pymesh down ends it" in again.stderr


# --- meshes of their own


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """A directory with one plain pod, for a mesh that a test starts; whatever becomes of it, it is gone afterwards."""
    (tmp_path / "app.py").write_text(APP)
    write(tmp_path, service("web"), deployment("web", inject=False))
    try:
        yield tmp_path
    finally:
        pymesh("down", mesh=OTHER)
        assert nothing_left(OTHER)


def test_after_the_supervisor_was_killed_nothing_runs_and_down_leaves_nothing(other: Path) -> None:
    pymesh("up", *BARE, "-f", str(other), "--timeout", "20", mesh=OTHER)
    namespaces = [network.NAMESPACES / name for name in network.owned_namespaces(OTHER)]
    assert len(namespaces) == 3
    # One that a container has started and that nobody else knows of.
    script = "setsid sleep 300 > /dev/null 2>&1 & echo started"
    assert pymesh("exec", "web", "--", "sh", "-c", script, mesh=OTHER).stdout == "started\n"
    pid = state.supervisor(state.named(OTHER))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually_sync(lambda: state.supervisor(state.named(OTHER)) is None)
    gone = pymesh("ps", mesh=OTHER, check=False)
    assert (gone.returncode, f"pymesh down --mesh {OTHER} cleans up" in gone.stderr) == (1, True)
    assert any(processes.in_network_namespace(path) for path in namespaces)
    pymesh("down", mesh=OTHER)
    assert nothing_left(OTHER)
    assert "there is no mesh" in pymesh("down", mesh=OTHER).stderr


def test_up_cleans_up_after_a_killed_supervisor(other: Path) -> None:
    pymesh("up", *BARE, "-f", str(other), "--timeout", "20", mesh=OTHER)
    pid = state.supervisor(state.named(OTHER))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually_sync(lambda: state.supervisor(state.named(OTHER)) is None)
    pymesh("up", *BARE, "-f", str(other), "--timeout", "20", mesh=OTHER)
    assert rows(OTHER)["web"]["is_ready"]


@pytest.mark.parametrize("moment", ["starting", "waiting"])
def test_ctrl_c_during_up_leaves_nothing(other: Path, moment: str) -> None:
    never = deployment("web", inject=False)
    never["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 9}}
    write(other, never)
    environment = {**os.environ, "PYMESH_MESH": OTHER}
    with subprocess.Popen(
        [PYMESH, "up", *BARE, "-f", str(other)], stderr=subprocess.PIPE, text=True, env=environment
    ) as up:
        sign = state.named(OTHER).root if moment == "starting" else state.named(OTHER).socket
        eventually_sync(sign.exists, interval=0.002)
        if moment == "waiting":
            eventually_sync(lambda: "web" in rows(OTHER))
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 130
    assert nothing_left(OTHER)


def test_what_never_gets_ready_is_told_and_keeps_running(other: Path) -> None:
    never = deployment("web", inject=False)
    never["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 9}}
    write(other, never)
    done = pymesh("up", *BARE, "-f", str(other), "--timeout", "3", mesh=OTHER, check=False)
    assert done.returncode == 1
    assert "not ready within 3 s; it keeps running" in done.stderr
    assert "app not ready: Connection refused" in done.stderr
    assert "web" in rows(OTHER)


def test_foreground_stays_until_it_is_interrupted(other: Path) -> None:
    environment = {**os.environ, "PYMESH_MESH": OTHER}
    command = [PYMESH, "up", "-f", str(other), "--timeout", "20", "--foreground", "--without", "pilot"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as up:
        assert up.stderr is not None
        for line in up.stderr:
            if "Ctrl-C ends it" in line:
                break
        assert up.poll() is None
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 130
    assert nothing_left(OTHER)


def test_up_refuses_wrong_manifests_and_leaves_nothing(other: Path) -> None:
    (other / "mesh.yaml").write_text("a: [")
    done = pymesh("up", "-f", str(other), mesh=OTHER, check=False)
    assert (done.returncode, "malformed YAML" in done.stderr) == (1, True)
    assert nothing_left(OTHER)
    assert "no such component; there are" in pymesh("up", "--without", "fun", mesh=OTHER, check=False).stderr
    assert "cannot be the name of a mesh" in pymesh("up", mesh="a-b", check=False).stderr


def test_a_supervisor_that_cannot_start_says_why_in_one_line(other: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/iptables-restore").write_text("#!/bin/sh\necho no kernel support >&2; exit 4\n")
    (tmp_path / "bin/iptables-restore").chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = pymesh("up", "-f", str(other), "--timeout", "5", mesh=OTHER, check=False, env={"PATH": path})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("iptables-restore -w 5: no kernel support")
    assert nothing_left(OTHER)


def test_without_root_there_is_one_message() -> None:
    for command in (["up"], ["down"], ["exec", "x", "--", "y"]):
        done = pymesh(*command, mesh=OTHER, check=False, user=65534, group=65534, extra_groups=[])
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "pymesh: root is needed: pods are network namespaces; try again with sudo\n"


def test_without_iptables_the_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "ip").symlink_to("/usr/bin/true")
    done = pymesh("up", mesh=OTHER, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "iptables" in done.stderr
    assert nothing_left(OTHER)
