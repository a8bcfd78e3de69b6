"""Services as only a cluster has them: headless ones with named pods, other names for others, external addresses."""

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from pymesh.xds import types
from pymesh.xds.check import check as check_supported
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot.model import Severity
from tests.controlplane.pilot.cluster_worlds import DB, REVIEWS, external, headless
from tests.controlplane.pilot.worlds import BOOKINFO, Messages, resources_for, service, sidecar, world_of

OTHER = "others.default.svc.cluster.local"


def messages(*texts: str) -> Messages:
    return resources_for(sidecar(), world_of("---".join([BOOKINFO, *texts])))


def domains(found: Messages, port: int = 9080) -> dict[str, list[str]]:
    config = found[types.ROUTE][str(port)]
    assert isinstance(config, RouteConfiguration)
    check_supported(config)
    return {host.name: list(host.domains) for host in config.virtual_hosts}


def cluster(found: Messages, name: str) -> Cluster:
    message = found[types.CLUSTER][name]
    assert isinstance(message, Cluster)
    check_supported(message)
    return message


def test_pods_of_a_headless_service_are_called_by_names_of_their_own() -> None:
    """`db-0.db`, as a StatefulSet names its pods: the service's routes, to where the name has led."""
    found = messages(headless("http"))
    known = domains(found)[f"{DB}:9080"]
    assert {f"*.{DB}", f"*.{DB}:9080", "*.db.default", "*.db.default.svc", "*.db"} <= set(known)
    assert cluster(found, f"outbound|9080||{DB}").type == Cluster.ORIGINAL_DST
    assert not [domain for domain in domains(found)[f"{REVIEWS}:9080"] if "*" in domain]


def test_a_gateway_finds_the_pods_of_a_headless_service_by_their_endpoints() -> None:
    """What its client dialled is the gateway itself."""
    found = resources_for(sidecar(kind="router"), world_of("---".join([BOOKINFO, headless("http")])))
    name = f"outbound|9080||{DB}"
    assert cluster(found, name).type == Cluster.EDS
    assignment = found[types.ENDPOINT][name]
    assert isinstance(assignment, ClusterLoadAssignment)
    (place,) = assignment.endpoints
    assert [item.endpoint.address.socket_address.address for item in place.lb_endpoints] == ["10.244.0.40"]


def test_connections_to_a_headless_service_are_told_by_the_addresses_of_its_pods() -> None:
    listener = messages(headless("tcp-sql"))[types.LISTENER]["virtualOutbound"]
    assert 'address_prefix: "10.244.0.40"' in str(listener)


def test_an_external_name_is_looked_up() -> None:
    found = messages(external("api.example.com"))
    assert domains(found)[f"{OTHER}:9080"][:2] == [OTHER, f"{OTHER}:9080"]
    there = cluster(found, f"outbound|9080||{OTHER}")
    assert there.type == Cluster.STRICT_DNS
    assert 'address: "api.example.com"' in str(there.load_assignment)
    assert "transport_socket" not in str(there), "nobody outside speaks the mesh's TLS"


def test_another_name_for_a_service_of_the_mesh_is_that_service() -> None:
    """With its endpoints, its mutual TLS and its routes, as in Istio."""
    found = messages(external(f"{REVIEWS}."))
    assert {OTHER, "others", "others.default:9080"} <= set(domains(found)[f"{REVIEWS}:9080"])
    assert f"outbound|9080||{OTHER}" not in found[types.CLUSTER]


def test_a_route_to_another_name_leads_to_the_service() -> None:
    """And a route for another name is for that name alone."""
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: others, namespace: default}
spec: {hosts: [others], http: [{route: [{destination: {host: others, subset: v2}}]}]}
"""
    world = world_of("---".join([BOOKINFO, external(REVIEWS), text]))
    assert not [problem for problem in check(world.resources.values(), world) if problem.severity is Severity.ERROR]
    found = resources_for(sidecar(), world)
    config = found[types.ROUTE]["9080"]
    assert isinstance(config, RouteConfiguration)
    (own,) = [host for host in config.virtual_hosts if host.name == f"{OTHER}:9080"]
    assert own.routes[0].route.cluster == f"outbound|9080|v2|{REVIEWS}"
    assert OTHER not in domains(found)[f"{REVIEWS}:9080"]


def test_names_that_lead_to_each_other_lead_nowhere() -> None:
    other = external("others.default.svc.cluster.local").replace("name: others", "name: circle")
    world = world_of("---".join([external("circle.default.svc.cluster.local"), other]))
    assert not world.aliases
    assert set(world.services) == {OTHER, "circle.default.svc.cluster.local"}


def test_an_external_name_without_ports_passes_through() -> None:
    assert not [name for name in messages(external("api.example.com", "[]"))[types.CLUSTER] if OTHER in name]


def test_an_external_address_is_the_services_as_it_is_to_kube_proxy() -> None:
    text = service("web", "[{name: tcp, port: 7000}]").replace("spec:", "spec:\n  externalIPs: [192.0.2.10, 'fd00::1']")
    assert world_of(text).services["web.default.svc.cluster.local"].addresses == ("10.96.0.1", "192.0.2.10")


def test_a_changed_cluster_ip_moves_the_service() -> None:
    before, after = (
        world_of(service("web", ip=ip)).services["web.default.svc.cluster.local"] for ip in ("10.96.0.1", "10.96.0.2")
    )
    assert (before.addresses, after.addresses) == (("10.96.0.1",), ("10.96.0.2",))
