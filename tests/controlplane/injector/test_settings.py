"""Annotations of a pod: what the sidecar and its redirect make of them, and which are refused."""

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane.injector.containers import DEFAULT_RESOURCES
from pymesh_controlplane.injector.inject import inject, inject_document
from pymesh_controlplane.injector.settings import SUPPORTED
from pymesh_proxy import options as proxy_options
from pymesh_proxy.redirect import __main__ as redirect
from tests.controlplane.injector.pods import CONFIG, annotated, container, option, pod


@pytest.mark.parametrize(
    ("annotations", "flag", "expected"),
    [
        ({"includeInboundPorts": "80, 443"}, "-b", "80,443"),
        ({"includeInboundPorts": ""}, "-b", ""),
        ({"includeInboundPorts": "*"}, "-b", "*"),
        ({"excludeInboundPorts": "8081,15021"}, "-d", "15090,15021,15020,8081"),
        ({"includeOutboundPorts": "6379"}, "-q", "6379"),
        ({"excludeOutboundPorts": "3306,05432"}, "-o", "3306,5432"),
        ({"includeOutboundIPRanges": "10.0.0.0/8,172.16.0.0/12"}, "-i", "10.0.0.0/8,172.16.0.0/12"),
        ({"excludeOutboundIPRanges": "169.254.169.254"}, "-x", "169.254.169.254/32"),
    ],
)
def test_traffic_annotations_become_options_of_the_redirect(
    annotations: dict[str, str], flag: str, expected: str
) -> None:
    command = container(inject(annotated(**annotations), config=CONFIG), "pymesh-init")["command"]
    assert option(command, flag) == expected


def test_image_log_level_and_resources_follow_the_annotations() -> None:
    result = inject(
        annotated(proxyImage="local/proxy:2", logLevel="debug", proxyCPU="200m", proxyMemoryLimit="1Gi"), config=CONFIG
    )
    proxy = container(result, "pymesh-proxy")
    assert proxy["image"] == container(result, "pymesh-init")["image"] == "local/proxy:2"
    assert option(proxy["command"], "--log-level") == "debug"
    # Saying something about resources says everything: no default limit below a wanted request.
    assert proxy["resources"] == {"requests": {"cpu": "200m"}, "limits": {"memory": "1Gi"}}
    defaults = container(inject(pod(), config=CONFIG), "pymesh-proxy")["resources"]
    assert {(kind, what): q for kind, pairs in defaults.items() for what, q in pairs.items()} == DEFAULT_RESOURCES


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"includeInboundPorts": "80;443"}, "ports from 1 to 65535"),
        ({"excludeInboundPorts": "0"}, "ports from 1 to 65535"),
        ({"excludeOutboundPorts": "70000"}, "ports from 1 to 65535"),
        ({"excludeOutboundPorts": "80,,81"}, "ports from 1 to 65535"),
        ({"excludeInboundPorts": "*"}, "ports from 1 to 65535"),
        ({"includeOutboundPorts": "*"}, "ports from 1 to 65535"),
        ({"includeOutboundIPRanges": "10.0.0.1/8"}, "host bits zero"),
        ({"excludeOutboundIPRanges": "fd00::/8"}, "IPv4 ranges"),
        ({"excludeOutboundIPRanges": "10.0.0.0/8 -j ACCEPT"}, "IPv4 ranges"),
        ({"proxyCPU": "lots"}, "quantity"),
        ({"proxyMemoryLimit": "-1Gi"}, "quantity"),
        ({"proxyImage": "a b"}, "image"),
        ({"logLevel": "loud"}, "choose one of debug"),
        ({"proxy": "nginx"}, "choose one of pymesh, envoy"),
        ({"nativeSidecar": "yes"}, '"true" or "false"'),
        ({"rewriteAppHTTPProbers": "no"}, '"true" or "false"'),
        ({"periodSeconds": "0"}, "whole number from 1"),
        ({"failureThreshold": "-1"}, "whole number from 1"),
        ({"port": "15021"}, "one port"),
        ({"port": "80,81"}, "one port"),
        ({"interceptionMode": "TPROXY"}, "not supported; supported are"),
    ],
)
def test_annotations_that_make_no_sense_are_refused_where_they_stand(annotations: dict[str, str], words: str) -> None:
    document = annotated(**annotations)
    [name] = document["metadata"]["annotations"]
    with pytest.raises(ConfigError) as caught:
        inject_document(document, config=CONFIG)
    assert words in caught.value.problem
    assert caught.value.path == f"metadata.annotations[{name}]"
    assert caught.value.resource == "Pod default/reviews"


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"proxy": "envoy", "logLevel": "debug"},
        {"port": "15030"},
        {"includeInboundPorts": "", "excludeInboundPorts": "81", "includeOutboundPorts": ""},
        {
            "includeInboundPorts": "80,81", "includeOutboundPorts": "6379", "excludeOutboundPorts": "25",
            "includeOutboundIPRanges": "10.0.0.0/8", "excludeOutboundIPRanges": "10.1.0.0/16",
        },
    ],
)  # fmt: skip
def test_the_commands_are_understood_by_the_programs_they_are_for(
    annotations: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = inject(annotated(**annotations), config=CONFIG)
    init = container(result, "pymesh-init")["command"]
    assert redirect.main([*init[1:], "--dry-run"]) == 0
    assert "15001" in capsys.readouterr().out
    proxy = container(result, "pymesh-agent" if "proxy" in annotations else "pymesh-proxy")["command"]
    options = proxy_options.parse(proxy[1:])
    assert options.discovery == ("pilot.pymesh-system.svc", 15012)
    assert options.agent is ("proxy" in annotations)
    assert options.status_port == int(annotations.get("port", "15020"))
    assert options.log_level == annotations.get("logLevel", "info")


def test_the_error_for_an_unknown_annotation_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        inject(pod(annotations={"proxy.istio.io/config": "{}"}), config=CONFIG)
    assert all(name in caught.value.problem for name in SUPPORTED)
