"""MeshConfig: what holds for the whole mesh, as YAML in a ConfigMap.

Source: istio.io/docs/reference/config/istio.mesh.v1alpha1, release 1.27. As in Istio it is the text under the key
`mesh` of a ConfigMap of the system namespace; ours is called `pymesh`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from pymesh import access_log_formats
from pymesh.errors import ConfigError
from pymesh.resources import check
from pymesh.resources.documents import Document, documents
from pymesh.resources.extension_providers import ExtensionProvider, OpenTelemetryProvider, problems
from pymesh.resources.fields import Block, NotYet, Percent
from pymesh.resources.kubernetes import ConfigMap
from pymesh.resources.resource import Resource, child_path

CONFIG_MAP: Final = "pymesh"
KEY: Final = "mesh"
# Of the keys of the same ConfigMap that hold checks in Python (pymesh.checks).
CHECKS_ENDING: Final = ".py"
PATH: Final = f"data.{KEY}"
# As SPIFFE ID, section 2.1, has it.
TrustDomain = Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,255}\Z", description="a trust domain, as in td.example.com")]


class OutboundTrafficPolicy(Block, frozen=True):
    """What becomes of connections to a destination that is not in the registry."""

    mode: Literal["ALLOW_ANY", "REGISTRY_ONLY"] = "ALLOW_ANY"


class Tracing(Block, frozen=True):
    """How many of the requests that come without a trace get one, in percent. 1 is Istio's default."""

    sampling: Percent = 1.0
    custom_tags: NotYet = None
    enable_istio_tags: NotYet = None
    max_path_tag_length: NotYet = None
    tls_settings: NotYet = None
    zipkin: NotYet = None
    lightstep: NotYet = None
    datadog: NotYet = None
    stackdriver: NotYet = None
    open_census_agent: NotYet = None


class ProxyConfig(Block, frozen=True):
    """What every proxy has unless its pod says otherwise."""

    tracing: Tracing = Tracing()
    concurrency: NotYet = None
    discovery_address: NotYet = None
    drain_duration: NotYet = None
    envoy_access_log_service: NotYet = None
    envoy_metrics_service: NotYet = None
    gateway_topology: NotYet = None
    hold_application_until_proxy_starts: NotYet = None
    image: NotYet = None
    proxy_admin_port: NotYet = None
    proxy_headers: NotYet = None
    proxy_metadata: NotYet = None
    proxy_stats_matcher: NotYet = None
    readiness_probe: NotYet = None
    stats_compression: NotYet = None
    status_port: NotYet = None
    termination_drain_duration: NotYet = None


class DefaultProviders(Block, frozen=True):
    """The providers that are used where nobody names one."""

    tracing: list[str] = []
    metrics: NotYet = None
    access_logging: NotYet = None


class PathNormalization(Block, frozen=True):
    """What is made of a path before anything is matched against it.

    BASE, which is DEFAULT, resolves `.` and `..` and takes `\\` for a slash (RFC 3986, section 6); MERGE_SLASHES makes
    one of several slashes besides; DECODE_AND_MERGE_SLASHES first takes `%2F` and `%5C` for slashes.
    """

    normalization: Literal["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"] = "DEFAULT"


class MeshConfig(Block, frozen=True):
    """What holds for the whole mesh. Without a ConfigMap everything is as the defaults say.

    Attributes:
        access_log_file: where proxies write their access log, `/dev/stdout`; empty: they write none.
        access_log_format: Envoy's format string, or, with encoding JSON, a JSON object of them; empty: the default one.
        path_normalization: what becomes of a path before it is matched.
        trust_domain_aliases: trust domains that stand for the mesh's own.
        enable_tracing: turns off the tracing that `default_providers` turns on.
    """

    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy()
    access_log_file: str = ""
    access_log_encoding: Literal["TEXT", "JSON"] = "TEXT"
    access_log_format: str = ""
    enable_tracing: bool = True
    default_config: ProxyConfig = ProxyConfig()
    extension_providers: list[ExtensionProvider] = []
    default_providers: DefaultProviders = DefaultProviders()
    path_normalization: PathNormalization = PathNormalization()
    trust_domain_aliases: list[TrustDomain] = []
    ca: NotYet = None
    ca_certificates: NotYet = None
    certificates: NotYet = None
    config_sources: NotYet = None
    connect_timeout: NotYet = None
    default_destination_rule_export_to: NotYet = None
    default_http_retry_policy: NotYet = None
    default_service_export_to: NotYet = None
    default_virtual_service_export_to: NotYet = None
    disable_envoy_listener_log: NotYet = None
    discovery_selectors: NotYet = None
    dns_refresh_rate: NotYet = None
    enable_auto_mtls: NotYet = None
    enable_envoy_access_log_service: NotYet = None
    enable_prometheus_merge: NotYet = None
    h2_upgrade_policy: NotYet = None
    inbound_cluster_stat_name: NotYet = None
    inbound_traffic_policy: NotYet = None
    ingress_class: NotYet = None
    ingress_controller_mode: NotYet = None
    ingress_selector: NotYet = None
    ingress_service: NotYet = None
    locality_lb_setting: NotYet = None
    mesh_mtls: NotYet = None
    outbound_cluster_stat_name: NotYet = None
    proxy_http_port: NotYet = None
    proxy_inbound_listen_port: NotYet = None
    proxy_listen_port: NotYet = None
    root_namespace: NotYet = None
    service_settings: NotYet = None
    tcp_keepalive: NotYet = None
    tls_defaults: NotYet = None
    trust_domain: NotYet = None
    verify_certificate_at_client: NotYet = None

    def trust_domains(self, own: str) -> tuple[str, ...]:
        """The mesh's `own`, and those that stand for it: of these a peer may be."""
        return tuple(dict.fromkeys((own, *self.trust_domain_aliases)))

    @property
    def registry_only(self) -> bool:
        """Whether nothing may be reached that is not in the registry."""
        return self.outbound_traffic_policy.mode == "REGISTRY_ONLY"

    @property
    def tracer(self) -> OpenTelemetryProvider | None:
        """Where spans go; None if requests are not traced."""
        if not self.enable_tracing or not self.default_providers.tracing:
            return None
        wanted = self.default_providers.tracing[0]
        return next((item.opentelemetry for item in self.extension_providers if item.name == wanted), None)


def read(resource: Resource[ConfigMap]) -> MeshConfig | list[ConfigError]:
    """The MeshConfig in a ConfigMap, or everything that is wrong with it, each with its place in the text.

    A ConfigMap without the key `mesh`, or with nothing in it, is a MeshConfig of defaults.
    """
    data = resource.raw.get("data")
    if not isinstance(data, Mapping):
        return MeshConfig() if data is None else [resource.error("data is a group of names with texts", "data")]
    for name in data:
        if name != KEY and not str(name).endswith(CHECKS_ENDING):
            hint = check.near(str(name), [KEY])
            return [resource.error(f"only the key '{KEY}' is read{hint}: remove this one", child_path("data", name))]
    text = data.get(KEY)
    if text is None:
        return MeshConfig()
    if not isinstance(text, str):
        return [resource.error(f"the MeshConfig is a text: write '{KEY}: |' and indent what follows", PATH)]
    found = list(documents(text, resource.file, "a MeshConfig is a group of fields"))
    if not found:
        return MeshConfig()
    if isinstance(found[0], ConfigError):
        return [_in_text(resource, found[0])]
    if len(found) > 1:
        return [resource.error("there is more than one document: a MeshConfig is one", PATH)]
    return _convert(resource, found[0])


def _convert(resource: Resource[ConfigMap], document: Document) -> MeshConfig | list[ConfigError]:
    config = check.convert(document.value, MeshConfig)
    wrong = config if isinstance(config, list) else list(_inconsistent(config))
    if isinstance(config, list) or wrong:
        return [_in_text(resource, error.placed(document.positions.at(error.path))) for error in wrong]
    return config


def _in_text(resource: Resource[ConfigMap], error: ConfigError) -> ConfigError:
    """`error`, whose position is one within the text, as one of the file that the text stands in."""
    path = f"{PATH}.{error.path}" if error.path else PATH
    position = resource.positions.inside(PATH, error.position) if error.position else resource.positions.at(PATH)
    return ConfigError(error.problem, path=path, position=position, resource=str(resource.key))


def _inconsistent(config: MeshConfig) -> Iterable[ConfigError]:
    """What is wrong though every field of its own is right."""
    names: set[str] = set()
    for index, provider in enumerate(config.extension_providers):
        path = f"extensionProviders[{index}]"
        if provider.name in names:
            yield ConfigError(f"there is a provider '{provider.name}' above already", path=f"{path}.name")
        names.add(provider.name)
        for error in problems(provider):
            yield error.at(path)
    for index, name in enumerate(config.default_providers.tracing):
        path = f"defaultProviders.tracing[{index}]"
        if name not in names:
            sentence = f"there is no provider '{name}' in extensionProviders{check.near(name, names)}"
            yield ConfigError(sentence, path=path)
        elif not any(item.name == name and item.opentelemetry for item in config.extension_providers):
            yield ConfigError(f"'{name}' takes no spans: name a provider with opentelemetry", path=path)
        elif index:
            yield ConfigError("spans go to one provider only: remove this one", path=path)
    yield from _access_log_problems(config)


def _access_log_problems(config: MeshConfig) -> Iterable[ConfigError]:
    """What no proxy could make a line of: every one would refuse its listeners for it."""
    path = "accessLogFormat"
    if config.access_log_encoding == "TEXT":
        yield from _format_problems(config.access_log_format, path)
    elif config.access_log_format:
        try:
            fields = json.loads(config.access_log_format)
        except ValueError as error:
            sentence = f"with accessLogEncoding JSON this is a JSON object, and it is not JSON: {error}"
            yield ConfigError(sentence, path=path)
            return
        if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
            yield ConfigError('write a JSON object of texts, as in {"path": "%REQ(:PATH)%"}', path=path)
            return
        for text in fields.values():
            yield from _format_problems(text, path)


def _format_problems(text: str, path: str) -> Iterable[ConfigError]:
    try:
        access_log_formats.parse_format(text)
    except ConfigError as error:
        yield ConfigError(error.problem, path=path)
