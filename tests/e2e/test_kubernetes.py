"""A mesh in a cluster, from `kubectl apply -k deploy/` to a sidecar that follows what kubectl changes.

The API server is the tests' own; kubectl, control plane and sidecar are the real ones. The control plane has the rights
of its account and no others, webhooks are called over TLS, and tokens are the API server's. What a kubelet does is done
here: the sidecar is started by what injector wrote into the pod.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import yaml

from pymesh.names import PORT_OUTBOUND
from tests.e2e.controlplane import SERVER_NAME, Running, running
from tests.e2e.test_kubernetes_controlplane import ACCOUNT, KUBECTL, Replica
from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.server import ApiServer
from tests.support.proxy_process import ProxyProcess, free_port
from tests.support.repository import ROOT
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]

# As a shell that sees one more host than the machine: $0 takes the place of /etc/hosts.
WITH_HOSTS = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')
POD_IP = "10.244.1.7"

SHOP = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: %s, labels: {app: web}}
spec: {serviceAccountName: %s, containers: [{name: app, image: app, ports: [{containerPort: 8080}]}]}
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec: {hosts: [reviews], http: [{route: [{destination: {host: %s}}], timeout: %s}]}
"""
ROUTES = ("networking.istio.io", "virtualservices")


@dataclass
class Cluster:
    """An API server with the mesh's manifests, and the control plane that they are for."""

    api: ApiServer
    kubeconfig: Path
    plane: Running

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """kubectl as the administrator."""
        command = [KUBECTL, "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)

    def kubectl(self, *arguments: str, given: str = "", fails: bool = False) -> str:
        """What kubectl says; what it says to standard error if it is to fail."""
        done = self.run(*arguments, given=given)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def apply(self, text: str, *flags: str, fails: bool = False) -> str:
        """kubectl apply."""
        return self.kubectl("apply", "-f", "-", *flags, given=text, fails=fails)

    def pod(self, name: str, namespace: str) -> Object:
        """A pod as the API gives it."""
        found: Object = yaml.safe_load(self.kubectl("get", "pod", name, "-n", namespace, "-o", "yaml"))
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane that is ready, and that the API server reaches."""
    with ApiServer() as api:
        kubeconfig = api.kubeconfig()
        apply = [KUBECTL, "--kubeconfig", str(kubeconfig), "apply", "-k", str(ROOT / "deploy")]
        done = subprocess.run(apply, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        account = api.kubeconfig(api.account_token(*ACCOUNT), name="controlplane")
        replica = Replica(tmp_path_factory.mktemp("controlplane"), account, "pymesh-controlplane-a")
        with running(replica, environment=replica.environment) as plane:
            found = Cluster(api, kubeconfig, plane)
            for service in ("galley", "injector"):
                api.route("pymesh-system", service, 443, ("127.0.0.1", plane.ports["webhooks"]))
            eventually_sync(lambda: plane.get("/ready") == "ready\n", what="a ready control plane", timeout=30)
            found.apply(SHOP)
            # Istio's kinds, the caBundle and the roots come from the leader, which is one in a moment.
            eventually_sync(lambda: found.apply(ROUTE % ("reviews", "5s")), what="galley's yes", timeout=30)
            eventually_sync(lambda: found.apply(POD % ("shop", "web")), what="injector's answer", timeout=30)
            yield found
            assert "forbidden" not in plane.log.read_text().lower(), "its account may do all that it does"


@pytest.fixture(scope="module")
def sidecar(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """The sidecar of shop/web-1, as a kubelet would start it, on ports of loopback."""
    folder = tmp_path_factory.mktemp("web-1")
    status = f'{{"status": {{"phase": "Running", "podIP": "{POD_IP}", "podIPs": [{{"ip": "{POD_IP}"}}]}}}}'
    cluster.kubectl("patch", "pod", "web-1", "-n", "shop", "--subresource=status", "--type=merge", "-p", status)
    pod = cluster.pod("web-1", "shop")
    container = next(each for each in pod["spec"]["initContainers"] if each["name"] == "pymesh-proxy")
    environment = {each["name"]: variable(each, pod) for each in container["env"]}
    token, root, hosts = folder / "istio-token", folder / "root-cert.pem", folder / "hosts"
    token.write_text(token_of(cluster.api, pod))
    [roots] = [
        each for each in cluster.api.objects("", "configmaps", "shop")
        if each["metadata"]["name"] == volume(pod, "istiod-ca-cert")["configMap"]["name"]
    ]  # fmt: skip
    root.write_text(roots["data"]["root-cert.pem"])
    hosts.write_text(f"127.0.0.1 localhost {SERVER_NAME}\n")
    with ProxyProcess(
        *arguments(container, cluster.plane.ports["tls"]), "--token", str(token), "--root-cert", str(root),
        env=environment, wrapper=(*WITH_HOSTS, str(hosts)),
    ) as proxy:  # fmt: skip
        yield proxy


def variable(entry: Object, pod: Object) -> str:
    """The value of an environment variable, as the downward API has it."""
    if "value" in entry:
        return str(entry["value"])
    found = pod
    for step in entry["valueFrom"]["fieldRef"]["fieldPath"].split("."):
        found = found[step]
    return str(found)


def volume(pod: Object, name: str) -> Object:
    """A volume of a pod."""
    found: Object = next(each for each in pod["spec"]["volumes"] if each["name"] == name)
    return found


def token_of(api: ApiServer, pod: Object) -> str:
    """The token that a kubelet would project into a pod."""
    [source] = volume(pod, "istio-token")["projected"]["sources"]
    wanted = source["serviceAccountToken"]
    meta = pod["metadata"]
    return api.account_token(
        meta["namespace"], pod["spec"]["serviceAccountName"], audiences=[wanted["audience"]], pod=meta["name"],
        seconds=wanted["expirationSeconds"],
    )  # fmt: skip


def arguments(container: Object, port: int) -> list[str]:
    """The command line of the sidecar, on ports that are free, to a control plane at this port of loopback."""
    command = list(container["command"])
    assert command[:3] == ["pymesh-proxy", "--listen", str(PORT_OUTBOUND)]
    assert command[3:5] == ["--discovery", f"{SERVER_NAME}:15012"]
    assert command[5:7] == ["--status-port", "15020"]
    return ["--listen", str(free_port()), "--discovery", f"{SERVER_NAME}:{port}", *command[7:]]


def test_a_pod_of_a_labelled_namespace_comes_back_with_a_sidecar(cluster: Cluster) -> None:
    """Native, with the API server's own token volume beside ours; and others' pods as they were."""
    spec = cluster.pod("web-1", "shop")["spec"]
    assert [each["name"] for each in spec["initContainers"]] == ["pymesh-init", "pymesh-proxy"]
    assert [each["name"] for each in spec["containers"]] == ["app"]
    proxy = spec["initContainers"][1]
    assert (proxy["image"], proxy["restartPolicy"]) == ("pymesh-proxy:0.1.0", "Always")
    mounts = {each["mountPath"] for each in proxy["volumeMounts"]}
    assert {"/var/run/secrets/tokens", "/var/run/secrets/istio", "/etc/pymesh/pod"} <= mounts
    assert len({each["name"] for each in spec["volumes"]}) == len(spec["volumes"])
    said = cluster.apply(POD % ("shop", "web"))
    assert said == "pod/web-1 unchanged\n", "who applies a pod again changes nothing"
    cluster.apply(POD % ("default", "default"))
    assert "initContainers" not in cluster.pod("web-1", "default")["spec"]
    later = (POD % ("shop", "web")).replace("web-1", "web-2").replace("app: web", 'sidecar.istio.io/inject: "false"')
    cluster.apply(later)
    assert "initContainers" not in cluster.pod("web-2", "shop")["spec"]


def test_its_sidecar_gets_certificate_and_configuration(cluster: Cluster, sidecar: ProxyProcess) -> None:
    """By the token that the API server vouches for, and by what pilot has read from it."""
    assert "spiffe://cluster.local/ns/shop/sa/web" in sidecar.get("/certs").text
    assert "proof=token pod=web-1/" in cluster.plane.log.read_text()
    assert "outbound|9080||reviews.shop.svc.cluster.local" in sidecar.get("/config_dump").text
    [known] = cluster.plane.syncz()
    assert "web-1.shop" in str(known)


def test_what_kubectl_changes_reaches_the_sidecar(cluster: Cluster, sidecar: ProxyProcess) -> None:
    """Applied, patched, deleted."""
    eventually_sync(lambda: '"timeout": "5s"' in sidecar.get("/config_dump").text, what="the route as it was made")
    cluster.apply(ROUTE % ("reviews", "7s"))
    eventually_sync(lambda: '"timeout": "7s"' in sidecar.get("/config_dump").text, what="the route as applied")
    patch = '[{"op": "replace", "path": "/spec/http/0/timeout", "value": "8s"}]'
    cluster.kubectl("patch", "virtualservice", "reviews", "-n", "shop", "--type=json", "-p", patch)
    eventually_sync(lambda: '"timeout": "8s"' in sidecar.get("/config_dump").text, what="the route as patched")


def test_galley_refuses_in_kubectls_own_output(cluster: Cluster, sidecar: ProxyProcess) -> None:
    """With the sentence that it has everywhere; and what is in force stays."""
    said = cluster.apply(ROUTE % ("reviews", "soon"), fails=True)
    sentence = "The VirtualService \"reviews\" is invalid: spec.http[0].timeout: the text 'soon' is not a duration"
    assert said.startswith(sentence)
    assert cluster.apply(ROUTE % ("reviews", "soon"), "--dry-run=server", fails=True) == said
    [route] = cluster.api.objects(*ROUTES, "shop")
    assert route["spec"]["http"][0]["timeout"] == "8s"
    wrong = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pymesh, namespace: pymesh-system}\ndata: {mesh: '['}\n"
    assert cluster.apply(wrong, fails=True).startswith('The ConfigMap "pymesh" is invalid: data')


def test_galley_warns_of_what_is_not_there_yet(cluster: Cluster, sidecar: ProxyProcess) -> None:
    """It is stored, since its Service may come next; until then the sidecar has the route before it."""
    done = cluster.run("apply", "-f", "-", given=ROUTE % ("later", "4s"))
    assert done.stdout == "virtualservice.networking.istio.io/reviews configured\n"
    assert "Warning: " in done.stderr
    assert "there is no service later.shop.svc.cluster.local" in done.stderr
    assert '"timeout": "8s"' in sidecar.get("/config_dump").text
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: later, namespace: shop}\n"
    cluster.apply(service + "spec: {selector: {app: later}, ports: [{name: http, port: 9080}]}\n")
    eventually_sync(lambda: '"timeout": "4s"' in sidecar.get("/config_dump").text, what="the route with its service")


def test_nothing_is_lost_when_watches_break_and_history_is_forgotten(cluster: Cluster, sidecar: ProxyProcess) -> None:
    """Neither what was changed nor what was deleted while nobody watched; the sidecar keeps what it has meanwhile."""
    cluster.api.cut()
    cluster.apply(ROUTE % ("reviews", "9s"))
    eventually_sync(lambda: '"timeout": "9s"' in sidecar.get("/config_dump").text, what="a change after a cut")
    relists = cluster.plane.get("/metrics")
    cluster.api.stop()
    assert sidecar.get("/ready").status == 200
    store = cluster.api.cluster.store
    store.remove(ROUTES, "shop", "reviews")  # as another API server of the same cluster would do it
    store.compact()
    assert '"timeout": "9s"' in sidecar.get("/config_dump").text
    cluster.api.start()
    eventually_sync(
        lambda: '"timeout": "9s"' not in sidecar.get("/config_dump").text, what="the end of the route", timeout=30
    )
    assert relists != cluster.plane.get("/metrics")
    cluster.apply(ROUTE % ("reviews", "6s"))
    eventually_sync(lambda: '"timeout": "6s"' in sidecar.get("/config_dump").text, what="the next route", timeout=30)


def test_the_token_of_a_pod_that_is_gone_is_worth_nothing(cluster: Cluster) -> None:
    """The API server says so, and citadel believes it."""
    cluster.apply((POD % ("shop", "web")).replace("web-1", "web-3"))
    token = token_of(cluster.api, cluster.pod("web-3", "shop"))
    [roots] = [
        each for each in cluster.api.objects("", "configmaps", "shop")
        if each["metadata"]["name"] == "pymesh-ca-root-cert"
    ]  # fmt: skip
    cluster.plane.place.root_cert.write_text(roots["data"]["root-cert.pem"])
    assert len(cluster.plane.sign(token)) == 2
    cluster.kubectl("delete", "pod", "web-3", "-n", "shop")
    with pytest.raises(grpc.RpcError) as caught:
        cluster.plane.sign(token)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
