"""What is told of pods."""

from pymesh.resources.kubernetes import Pod
from pymesh.resources.parse import parse
from pymesh_controlplane.local import observe
from pymesh_controlplane.local.containers import ContainerStatus
from pymesh_controlplane.local.status import summarise

UNREADY = ContainerStatus("app", "running", "", "the moon is missing", started=True, pid=7, since=50.0)
STATUS = summarise((), (UNREADY,), [], "", terminating=False)


def test_a_mesh_waits_for_what_is_not_ready_and_then_for_what_is_not_there() -> None:
    wanted = {("default", "web"): 2}
    unready = observe.row("default", "web-1", "web", STATUS, ip="10.244.0.2", created=0, host_ports={}, labels={})
    ready = {**unready, "is_ready": True}
    assert observe.waiting(wanted, [unready]) == ["default/web-1 Running: app not ready: the moon is missing"]
    assert observe.waiting(wanted, [ready]) == ["default/web: 1 of 2 pods are there"]
    assert observe.waiting(wanted, [ready, ready]) == []
    blocked = observe.blocked_row("default", "web-2", "web", "ServiceAccount default/web does not exist")
    assert observe.waiting(wanted, [ready, blocked]) == [
        "default/web-2 Pending: ServiceAccount default/web does not exist"
    ]


def test_pilot_reads_what_is_observed_of_a_pod() -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-1"},
        "spec": {"containers": [{"name": "app"}]},
    }
    document = observe.pod_object(manifest, STATUS, "10.244.0.2", 0.0, "5d04")
    parsed = parse(str(document).replace("True", "true").replace("False", "false").replace("None", "null"), "pod.yaml")
    assert not parsed.errors
    value = parsed.resources[0].value
    assert isinstance(value, Pod)
    assert value.status is not None
    assert (value.status.pod_ip, value.status.phase) == ("10.244.0.2", "Running")
    assert document["status"]["conditions"][-1]["message"] == "app not ready: the moon is missing"
    assert document["status"]["startTime"] == "1970-01-01T00:00:00Z"


def test_a_gateway_has_the_addresses_of_its_pods_on_the_machine() -> None:
    rows = [
        {"name": "edge", "host_ports": {"127.0.0.1:8080": 80}, "labels": {"istio": "ingressgateway", "a": "b"}},
        {"name": "other", "host_ports": {"127.0.0.1:9090": 80}, "labels": {}},
    ]
    gateway = {"kind": "Gateway", "spec": {"selector": {"istio": "ingressgateway"}}}
    expected = [{"value": "127.0.0.1:8080", "pod": "edge", "port": 80}]
    assert observe.with_ways_in(gateway, rows)["status"] == {"addresses": expected}
    assert "status" not in observe.with_ways_in({"kind": "Gateway", "spec": {"selector": {"no": "body"}}}, rows)
