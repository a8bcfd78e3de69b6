"""`pymesh inject -f`: what comes out for what goes in, text for text where nothing was to be done."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymesh.errors import ConfigError
from pymesh_controlplane.cli import inject as command
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import inject_document
from pymesh_controlplane.local.texts import Text

CONFIG = InjectionConfig(inject_by_default=True)


def inject(stream: str, **options: Any) -> str:
    """The stream with its pods injected."""
    return "---\n".join(command.inject_texts([Text("x.yaml", "/", stream)], config=CONFIG, **options))


STREAM = """\
# The books.
apiVersion: v1
kind: Service        # a comment that stays
metadata: {name: reviews}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: reviews
spec:
  template:
    metadata: {labels: {app: reviews, version: "1.10"}}
    spec:
      containers:
      - name: app
        command: [sh, -c, "echo one\\necho two\\n"]
        env: [{name: ON, value: "yes"}, {name: OCTAL, value: "0755"}]
---
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data:
  text: |
    --- not a separator
"""


ANNOTATED = """\
apiVersion: v1
kind: Pod
metadata:
  name: p
  annotations:
    sidecar.istio.io/logLevel: loud
spec: {containers: [{name: app}]}
"""


def test_documents_without_pods_keep_their_text_and_the_rest_means_the_same() -> None:
    output = inject(STREAM)
    service, deployment, config_map = output.split("\n---\n")
    first, second, third = (d for d in yaml.safe_load_all(STREAM) if d is not None)
    assert service == STREAM.split("\n---\n", maxsplit=1)[0]
    assert "    --- not a separator" in config_map
    assert yaml.safe_load(config_map) == third
    assert yaml.safe_load(deployment) == inject_document(second, config=CONFIG)
    assert "          echo one\n          echo two\n" in deployment
    assert yaml.safe_load(service) == first


def test_what_was_injected_can_be_injected_again() -> None:
    once = inject(STREAM)
    assert inject(once) == once


def test_a_namespace_in_the_input_decides_for_its_pods_in_whatever_file() -> None:
    pod = "kind: Pod\nmetadata: {name: p, namespace: quiet}\nspec: {containers: [{name: app}]}\n"
    namespace = "kind: Namespace\nmetadata: {name: quiet, labels: {istio-injection: disabled}}\n"
    told: list[str] = []
    output = command.inject_texts(
        [Text("pod.yaml", "/", pod), Text("namespace.yaml", "/", namespace)],
        config=CONFIG, report=lambda resource, decision: told.append(f"{resource} {decision.inject}"),
    )  # fmt: skip
    assert output == [pod, namespace]
    assert told == ["Pod quiet/p False"]


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a: b\n---\n- 1\n", "x.yaml:3:1", "a group of fields"),
        ("a: [1,\nb: c\n", "x.yaml:", ""),
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1", "a"),
        ("[" * 5000, "x.yaml", ""),
        ("kind: A\n---\n# 1\nkind: Pod\nmetadata: {name: p}\n", "x.yaml:4:1: Pod default/p", "at least one container"),
        (ANNOTATED, "x.yaml:5:3: Pod default/p: metadata.annotations", "choose one of"),
        ("a: \x00\n", "x.yaml", ""),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, where: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        inject(text)
    assert str(caught.value).startswith(where)
    assert words in caught.value.problem


def test_the_command_reads_standard_input_and_several_files(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text("kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: app}]}")
    done = subprocess.run(
        [Path(sys.executable).with_name("pymesh"), "inject", "-f", str(file), "-f", "-", "--proxy-image", "mine:1"],
        input=STREAM, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    kinds = [document["kind"] for document in yaml.safe_load_all(done.stdout)]
    assert kinds == ["Pod", "Service", "Deployment", "ConfigMap"]
    assert done.stdout.count("image: mine:1") == 4
    assert "Pod default/p: injected" in done.stderr
