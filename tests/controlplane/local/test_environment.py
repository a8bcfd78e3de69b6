"""Variables, command, user and capabilities of a container."""

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane.local import environment
from pymesh_controlplane.local.downward import PodFacts, field, listing
from pymesh_controlplane.local.podspec import (
    Capabilities,
    Container,
    EnvVar,
    EnvVarSource,
    KeySelector,
    ObjectFieldSelector,
    PodSecurityContext,
    SecurityContext,
)

FACTS = PodFacts("web-1", "shop", "u-1", "web", "10.244.0.9", {"app": "web", "v": 'a"b'}, {"note": "two\nlines"})


def container(**fields: object) -> Container:
    return Container(name="app", command=["run"], **fields)  # type: ignore[arg-type]  # a test's shorthand


def test_variables_come_in_order_and_may_use_the_ones_before() -> None:
    env = [EnvVar(name="A", value="1"), EnvVar(name="B", value="$(A)2$(C)$$(A)"), EnvVar(name="C", value="3")]
    result = environment.variables(container(env=env), FACTS, lambda _: None, {"PATH": "/bin"})
    assert result == {"PATH": "/bin", "A": "1", "B": "12$(C)$(A)", "C": "3"}
    assert environment.command(container(args=["$(A)", "$(X)"]), result) == ["run", "1", "$(X)"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-1"),
        ("metadata.namespace", "shop"),
        ("status.podIP", "10.244.0.9"),
        ("spec.serviceAccountName", "web"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['missing']", ""),
    ],
)
def test_a_pod_learns_about_itself(path: str, value: str) -> None:
    env = [EnvVar(name="X", value_from=EnvVarSource(field_ref=ObjectFieldSelector(field_path=path)))]
    assert environment.variables(container(env=env), FACTS, lambda _: None, {}) == {"X": value}


def test_labels_are_quoted_as_the_kubelet_does() -> None:
    assert field(FACTS, "metadata.labels") == 'app="web"\nv="a\\"b"'
    assert listing({"note": "two\nlines\\"}) == 'note="two\\nlines\\\\"'


def test_an_unknown_field_is_refused_with_its_place() -> None:
    env = [EnvVar(name="X", value_from=EnvVarSource(field_ref=ObjectFieldSelector(field_path="spec.nope")))]
    with pytest.raises(ConfigError, match=r"env\[0\]\.valueFrom\.fieldRef\.fieldPath: spec\.nope is not a field"):
        environment.variables(container(env=env), FACTS, lambda _: None, {})


def test_values_of_config_maps() -> None:
    def env(*, optional: bool) -> Container:
        key = KeySelector(name="settings", key="mode", optional=optional)
        return container(env=[EnvVar(name="X", value_from=EnvVarSource(config_map_key_ref=key))])

    assert environment.variables(env(optional=False), FACTS, {"settings": {"mode": "on"}}.get, {}) == {"X": "on"}
    assert environment.variables(env(optional=True), FACTS, lambda _: None, {}) == {}
    with pytest.raises(ConfigError, match="ConfigMap shop/settings has no key mode"):
        environment.variables(env(optional=False), FACTS, lambda _: None, {})


def test_who_a_container_runs_as() -> None:
    assert environment.user(container(), PodSecurityContext()) == (65532, 65532)
    assert environment.user(container(), PodSecurityContext(run_as_user=5, run_as_group=6)) == (5, 6)
    own = container(security_context=SecurityContext(run_as_user=0))
    assert environment.user(own, PodSecurityContext(run_as_user=5)) == (0, 0)


def test_capabilities() -> None:
    def of(**fields: list[str]) -> tuple[str, ...]:
        return environment.capabilities(
            container(security_context=SecurityContext(capabilities=Capabilities(**fields)))
        )

    assert of(add=["NET_ADMIN", "NET_RAW"], drop=["ALL"]) == ("NET_ADMIN", "NET_RAW")
    assert "CHOWN" in of(add=["NET_ADMIN"])
    assert "CHOWN" not in of(drop=["CHOWN"])
    with pytest.raises(ConfigError, match="FLY is not a capability"):
        of(add=["FLY"])
