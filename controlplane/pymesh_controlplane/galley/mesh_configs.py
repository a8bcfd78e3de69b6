"""The mesh's ConfigMap: a MeshConfig that can be read, whose providers are services that exist; checks in Python."""

from collections.abc import Mapping

from pymesh.resources import mesh_config
from pymesh.resources.extension_providers import EnvoyExtAuthz, OpenTelemetryProvider
from pymesh.resources.kubernetes import ConfigMap
from pymesh.resources.resource import Key, Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot import hosts
from pymesh_controlplane.pilot.model import Problem, World
from pymesh_controlplane.policy import sources
from pymesh_controlplane.wording import listed, near


def check(resource: Resource[ConfigMap], world: World) -> list[Problem]:
    """What is wrong with a ConfigMap: nothing, unless it is the one that holds the MeshConfig."""
    if resource.key != Key("ConfigMap", world.root_namespace, mesh_config.CONFIG_MAP):
        return []
    config = mesh_config.read(resource)
    if isinstance(config, list):
        return [Problem.of(error) for error in config]
    findings = Findings(resource)
    for key, text in sources.sources_of(world).items():
        if problem := sources.problem_of(key, text):
            findings.error(f"data.{key}", problem)
    for index, provider in enumerate(config.extension_providers):
        path = f"{mesh_config.PATH}.extensionProviders[{index}]"
        for name, to in (
            ("opentelemetry", provider.opentelemetry),
            ("envoyExtAuthzGrpc", provider.envoy_ext_authz_grpc),
            ("envoyExtAuthzHttp", provider.envoy_ext_authz_http),
        ):
            if to is not None:
                _check_provider(findings, f"{path}.{name}", to, world)
    return findings.problems


def lost(resource: Resource[object], before: Resource[object] | None, root_namespace: str) -> list[Problem]:
    """Warn of what the mesh's ConfigMap has no more: who writes one of its keys replaces them all."""
    if before is None or resource.key != Key("ConfigMap", root_namespace, mesh_config.CONFIG_MAP):
        return []
    findings = Findings(resource)
    data, had = _data(resource), _data(before)
    for key in sorted(had.keys() - data.keys()):
        if key == mesh_config.KEY:
            what = "the MeshConfig's defaults hold"
        else:
            what = f"its checks are gone ({listed(sources.functions_of({key: str(had[key])}))})"
        findings.warning("data", f"without the key {key}, {what}: a ConfigMap is replaced as a whole")
    return findings.problems


def _data(resource: Resource[object]) -> Mapping[str, object]:
    data = resource.raw.get("data")
    return data if isinstance(data, Mapping) else {}


def _check_provider(findings: Findings, path: str, to: OpenTelemetryProvider | EnvoyExtAuthz, world: World) -> None:
    """A provider that is not there yet may come later; until then a person should know."""
    host = hosts.of_provider(to, world)
    service = world.services.get(host)
    if service is None:
        findings.warning(f"{path}.service", f"there is no service {host} yet{near(host, world.services)}")
    elif service.port(to.port) is None:
        numbers = listed(port.port for port in service.ports)
        findings.warning(f"{path}.port", f"{host} has no port {to.port}; it has {numbers}")
