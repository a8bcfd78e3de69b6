"""What says the same: what an API server adds, and quantities in another form."""

import pytest

from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import inject
from pymesh_controlplane.injector.kept import keep, says
from pymesh_controlplane.injector.shape import Manifest
from tests.controlplane.injector.making import TOKEN_MOUNT, stored

CONFIG = InjectionConfig(inject_by_default=True)
POD: Manifest = {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app", "image": "app"}]}}


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": 1, "imagePullPolicy": "IfNotPresent"}, {"a": 1}, True),
        ({"a": 1, "imagePullPolicy": "Never"}, {"a": 1}, False),
        ({"a": 1, "terminationMessagePath": "/dev/termination-log"}, {"a": 1}, True),
        ({"a": 1, "terminationMessagePath": "/opt/pymesh/main.py"}, {"a": 1}, False),
        ({"a": 1, "successThreshold": 1}, {"a": 1}, True),
        ({"a": 1, "successThreshold": True}, {"a": 1}, False),
        ({"resources": {"limits": {"cpu": "1", "ephemeral-storage": "1Gi"}}}, {"resources": {}}, True),
        ({"resources": {"limits": "1"}}, {"resources": {}}, False),
        ({"resources": {"claims": [{"name": "gpu"}]}}, {"resources": {}}, False),
        ([{"name": "a"}, TOKEN_MOUNT], [{"name": "a"}], True),
        ([{"name": "a"}, TOKEN_MOUNT | {"mountPath": "/opt"}], [{"name": "a"}], False),
        ([{"name": "a"}, TOKEN_MOUNT | {"subPath": "x"}], [{"name": "a"}], False),
        ([{"name": "a"}, TOKEN_MOUNT | {"name": "mine"}], [{"name": "a"}], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": True}, {"a": 1}, False),
        (["x", "y"], ["x"], False),
        ([{"name": "new"}, {"name": "a"}, {"name": "b"}], [{"name": "a"}, {"name": "b"}], False),
        ([{"name": "b"}, {"name": "a"}], [{"name": "a"}, {"name": "b"}], False),
        ([], [{"name": "a"}], False),
        ({"limits": {"cpu": "2", "memory": "1Gi"}}, {"limits": {"cpu": "2000m", "memory": "1024Mi"}}, True),
        ({"requests": {"cpu": "100m"}}, {"requests": {"cpu": "0.1"}}, True),
        ({"requests": {"cpu": "1e3"}}, {"requests": {"cpu": "1k"}}, True),
        ({"requests": {"cpu": "100m", "memory": "1"}}, {"requests": {"cpu": "200m"}}, False),
        ({"requests": {"cpu": "some"}}, {"requests": {"cpu": "other"}}, False),
        ({"value": "1"}, {"value": "1000m"}, False),
    ],
)
def test_only_what_an_api_server_adds_is_the_same(whole: object, part: object, expected: bool) -> None:
    assert says(whole, part) is expected


def test_volumes_keep_their_places_and_what_is_new_comes_last() -> None:
    spec = {"volumes": [{"name": "app"}, {"name": "new"}, {"name": "ours", "configMap": {}}]}
    keep(spec, {"volumes": [{"name": "ours", "configMap": {"defaultMode": 420}}, {"name": "app"}]})
    assert spec["volumes"] == [{"name": "ours", "configMap": {"defaultMode": 420}}, {"name": "app"}, {"name": "new"}]


@pytest.mark.parametrize("container", ["pymesh-init", "pymesh-proxy"])
@pytest.mark.parametrize(
    "forged",
    [
        {"args": ["-o", "1:65535"]},
        {"env": [{"name": "PYTHONPATH", "value": "/app"}]},
        {"envFrom": [{"configMapRef": {"name": "mine"}}]},
        {"volumeMounts": [{"name": "app", "mountPath": "/opt/pymesh"}]},
        {"securityContext": {"procMount": "Unmasked"}},
        {"ports": [{"containerPort": 1}]},
        {"lifecycle": {"postStart": {"exec": {"command": ["kill", "1"]}}}},
        {"startupProbe": {"exec": {"command": ["true"]}}},
        {"workingDir": "/app"},
        {"terminationMessagePath": "/opt/pymesh/main.py"},
    ],
    ids=lambda forged: next(iter(forged)),
)
def test_a_pod_that_only_says_that_it_was_injected_gets_our_containers(container: str, forged: Manifest) -> None:
    """One of our name that does more, or something else, is no more than a wish."""
    pod = stored(inject(POD, config=CONFIG))
    wanted = {item["name"]: item for item in inject(POD, config=CONFIG)["spec"]["initContainers"]}
    item = next(item for item in pod["spec"]["initContainers"] if item["name"] == container)
    for field, value in forged.items():
        there = item.get(field)
        if isinstance(there, list):
            item[field] = there + value
        elif isinstance(there, dict):
            item[field] = there | value
        else:
            item[field] = value
    again = {item["name"]: item for item in inject(pod, config=CONFIG)["spec"]["initContainers"]}
    assert again[container] == wanted[container]
