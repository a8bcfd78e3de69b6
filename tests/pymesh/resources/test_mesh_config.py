"""The MeshConfig in its ConfigMap: what it means, and where in the ConfigMap's file a mistake stands."""

import pytest

from pymesh.resources.extension_providers import OpenTelemetryProvider
from pymesh.resources.kubernetes import ConfigMap
from pymesh.resources.mesh_config import MeshConfig, read
from pymesh.resources.parse import parse
from pymesh.resources.resource import holds

HEAD = """\
# the mesh's own settings
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data:
"""
ASKED = "{service: opa, port: 9191}"
MORE = "{service: opa, port: 9191,"


def config(text: str) -> MeshConfig:
    found = read_text(text)
    assert isinstance(found, MeshConfig), [str(error) for error in found]
    return found


def errors(text: str) -> list[str]:
    found = read_text(text)
    assert isinstance(found, list), found
    return [str(error).replace("ConfigMap pymesh-system/pymesh: ", "") for error in found]


def read_text(text: str) -> object:
    parsed = parse(text, "mesh.yaml")
    assert not parsed.errors, parsed.errors
    (resource,) = parsed.resources
    assert holds(resource, ConfigMap)
    return read(resource)


def test_every_field_is_read() -> None:
    found = config(
        HEAD
        + """\
  mesh: |
    outboundTrafficPolicy:
      mode: REGISTRY_ONLY
    accessLogFile: /dev/stdout
    accessLogEncoding: JSON
    accessLogFormat: |
      {"path": "%REQ(:PATH)%"}
    enableTracing: true
    defaultConfig:
      tracing:
        sampling: 12.5
    extensionProviders:
    - name: otel
      opentelemetry:
        service: collector.observability.svc.cluster.local
        port: 4317
    defaultProviders:
      tracing: [otel]
"""
    )
    assert found.registry_only
    assert (found.access_log_file, found.access_log_encoding) == ("/dev/stdout", "JSON")
    assert found.access_log_format == '{"path": "%REQ(:PATH)%"}\n'
    assert found.default_config.tracing.sampling == 12.5
    assert found.tracer == OpenTelemetryProvider(service="collector.observability.svc.cluster.local", port=4317)


def test_a_mesh_config_is_a_text() -> None:
    (error,) = errors(HEAD + "  mesh: {}")
    assert error == "mesh.yaml:6:3: data.mesh: the MeshConfig is a text: write 'mesh: |' and indent what follows"


@pytest.mark.parametrize("data", ["  {}", '  mesh: ""', "  mesh: |\n    # nothing yet\n"])
def test_what_is_not_written_is_as_the_defaults_say(data: str) -> None:
    found = config(HEAD + data)
    assert found == MeshConfig()
    assert not found.registry_only
    assert found.tracer is None
    assert found.default_config.tracing.sampling == 1


def test_tracing_can_be_turned_off_without_taking_the_provider_away() -> None:
    providers = "extensionProviders: [{name: o, opentelemetry: {service: c, port: 4317}}]\n    "
    on = f"  mesh: |\n    {providers}defaultProviders: {{tracing: [o]}}\n"
    assert config(HEAD + on).tracer is not None
    assert config(HEAD + on + "    enableTracing: false\n").tracer is None
    assert config(HEAD + f"  mesh: |\n    {providers}\n").tracer is None


def test_a_mistake_has_its_place_in_the_file_of_the_config_map() -> None:
    text = HEAD + "  mesh: |  # Istio's MeshConfig\n\n      accessLogFile: /dev/stdout\n      outboundTrafficPolicy:\n"
    text += "        mode: REGISTRYONLY\n"
    line = "        mode: REGISTRYONLY"
    place = f"{text.splitlines().index(line) + 1}:{line.index('mode') + 1}"
    (error,) = errors(text)
    assert error == (
        f"mesh.yaml:{place}: data.mesh.outboundTrafficPolicy.mode: the text 'REGISTRYONLY' is not one of "
        "ALLOW_ANY, REGISTRY_ONLY; did you mean 'REGISTRY_ONLY'?"
    )


def test_in_a_quoted_text_a_mistake_is_where_the_text_is() -> None:
    assert errors(HEAD + '  mesh: "enableTracing: 1\\noutboundTrafficPolicy: []"') == [
        "mesh.yaml:6:3: data.mesh.enableTracing: the number 1 is not true or false",
        "mesh.yaml:6:3: data.mesh.outboundTrafficPolicy: a list is not a group of fields: remove the '-' before it",
    ]


@pytest.mark.parametrize(
    ("mesh", "sentence"),
    [
        ("acessLogFile: x", "data.mesh.acessLogFile: unknown field 'acessLogFile'; did you mean 'accessLogFile'?"),
        ("enableAutoMtls: false", "data.mesh.enableAutoMtls: 'enableAutoMtls' is not supported yet: remove it"),
        ("a: b: c", "data.mesh: malformed YAML: a second ':' in this line"),
        ("[a]", "data.mesh: a MeshConfig is a group of fields, not a list"),
        ("{}\n    ---\n    {}", "data.mesh: there is more than one document"),
        ("defaultConfig: {tracing: {sampling: 101}}", "sampling: the number 101 is not a percentage between 0 and 100"),
        ("defaultConfig: {tracing: {sampling: '5'}}", "a percentage between 0 and 100: remove the quotes"),
        ("defaultProviders: {tracing: [x]}", "there is no provider 'x' in extensionProviders"),
        ("extensionProviders: [{name: x}]", "data.mesh.extensionProviders[0]: say what it is, by one of"),
        ("extensionProviders: [{name: x, zipkin: {}}]", "'zipkin' is not supported yet"),
        (
            f"extensionProviders: [{{name: X, envoyExtAuthzGrpc: {ASKED}}}]",
            "extensionProviders[0].name: who decides",
        ),
        (f"extensionProviders: [{{name: x, envoyExtAuthzGrpc: {ASKED}, opentelemetry: {ASKED}}}]", "by one of"),
        ("extensionProviders: [{name: x, envoyExtAuthzGrpc: {service: '', port: 1}}]", "is not the host of a service"),
        (
            f"extensionProviders: [{{name: x, envoyExtAuthzHttp: {MORE} pathPrefix: a}}}}]",
            "Http.pathPrefix: a path begins",
        ),
        (f"extensionProviders: [{{name: x, envoyExtAuthzHttp: {MORE} statusOnError: '299'}}}}]", "is not a status"),
        (
            f"extensionProviders: [{{name: x, envoyExtAuthzHttp: {MORE} headersToUpstreamOnAllow: ['*']}}}}]",
            "name a hea",
        ),
        (
            f"extensionProviders: [{{name: x, envoyExtAuthzGrpc: {ASKED}}}]\n    defaultProviders: {{tracing: [x]}}",
            "'x' takes no spans",
        ),
        ("pathNormalization: {normalization: SOME}", "is not one of BASE, DECODE_AND_MERGE_SLASHES, DEFAULT"),
        ("trustDomainAliases: ['a/b']", "is not a trust domain"),
        ("accessLogEncoding: JSON\n    accessLogFormat: '%PROTOCOL%'", "it is not JSON"),
        ("accessLogEncoding: JSON\n    accessLogFormat: '[]'", "write a JSON object of texts"),
        ("accessLogFormat: 'a %FOO%'", "accessLogFormat: access log format, character 3: unknown operator %FOO%"),
        ('accessLogEncoding: JSON\n    accessLogFormat: \'{"a": "%REQ%"}\'', "%REQ% takes a header name"),
    ],
)
def test_a_mistake_is_named(mesh: str, sentence: str) -> None:
    (error,) = errors(f"{HEAD}  mesh: |\n    {mesh}\n")
    assert sentence in error
    assert error.startswith(("mesh.yaml:7:", "mesh.yaml:8:")) or "one document" in error


def test_only_one_provider_gets_spans_and_a_name_is_given_once() -> None:
    one = "{name: o, opentelemetry: {service: c, port: 4317}}"
    text = f"  mesh: |\n    extensionProviders: [{one}, {one}]\n    defaultProviders: {{tracing: [o, o]}}\n"
    first, second = errors(HEAD + text)
    assert "there is a provider 'o' above already" in first
    assert "spans go to one provider only" in second


def test_a_key_that_nobody_reads_is_refused() -> None:
    assert "data.meshh: only the key 'mesh' is read; did you mean 'mesh'?" in errors(HEAD + "  meshh: x")[0]
