"""Who gets a sidecar: what the namespace, a label and an annotation say."""

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import decide, inject
from tests.controlplane.injector.pods import CONFIG, OPT_IN, pod

INJECT = "sidecar.istio.io/inject"


@pytest.mark.parametrize(
    ("namespace", "label", "annotation", "config", "expected"),
    [
        ("enabled", None, None, OPT_IN, True),
        ("disabled", None, None, CONFIG, False),
        (None, None, None, OPT_IN, False),
        (None, None, None, CONFIG, True),
        ("enabled", "false", None, OPT_IN, False),
        (None, "true", None, OPT_IN, True),
        ("disabled", "true", None, OPT_IN, False),
        ("enabled", None, "false", OPT_IN, False),
        (None, None, "true", OPT_IN, True),
        ("enabled", "true", "false", OPT_IN, True),
        ("enabled", "false", "true", OPT_IN, False),
    ],
)
def test_namespace_then_label_then_annotation_decide(
    namespace: str | None, label: str | None, annotation: str | None, config: InjectionConfig, expected: bool
) -> None:
    document = pod(labels={INJECT: label} if label else {}, annotations={INJECT: annotation} if annotation else {})
    namespace_labels = {"istio-injection": namespace} if namespace else {}
    decision = decide(document, config, namespace_labels)
    assert decision.inject is expected
    assert decision.reason
    result = inject(document, config=config, namespace_labels=namespace_labels)
    assert (result is not document) is expected


def test_a_pod_on_the_hosts_network_is_left_alone_whatever_it_says() -> None:
    document = pod(labels={INJECT: "true"})
    document["spec"]["hostNetwork"] = True
    assert inject(document, config=CONFIG, namespace_labels={"istio-injection": "enabled"}) is document


@pytest.mark.parametrize("place", ["labels", "annotations"])
def test_a_wish_that_cannot_be_read_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=rf"metadata\.{place}\[{INJECT}\]"):
        inject(pod(**{place: {INJECT: "no"}}), config=CONFIG)
    with pytest.raises(ConfigError, match="put False in quotes"):
        inject(pod(**{place: {INJECT: False}}), config=CONFIG)


def test_a_namespace_label_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="write enabled or disabled"):
        inject(pod(), config=CONFIG, namespace_labels={"istio-injection": "true"})
