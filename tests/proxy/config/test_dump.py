"""What the dump leaves out."""

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsCertificate

from pymesh.steps import whole
from pymesh.xds import types
from pymesh_proxy.admin import as_json, as_json_in_steps
from pymesh_proxy.config.dump import REDACTED, as_data, dumping


def test_private_keys_are_left_out() -> None:
    certificate = TlsCertificate()
    certificate.private_key.inline_string = "secret"
    certificate.certificate_chain.inline_string = "chain"
    assert as_data(certificate) == {"private_key": REDACTED, "certificate_chain": {"inline_string": "chain"}}


def test_a_dump_is_made_in_steps_and_says_the_same() -> None:
    clusters = {f"c{number}": Cluster(name=f"c{number}").SerializeToString() for number in range(50)}
    making = dumping(lambda kind: clusters if kind == types.CLUSTER else {}, lambda _, name: name == "c7")
    assert sum(1 for _ in making) == 50
    found = whole(dumping(lambda kind: clusters if kind == types.CLUSTER else {}, lambda _, name: name == "c7"))
    assert sum(1 for _ in as_json_in_steps(found)) > 1
    assert whole(as_json_in_steps(found)) == as_json(found)
