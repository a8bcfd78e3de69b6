"""Text → resources, and for each document that is not one, everything that is wrong with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from pymesh.errors import ConfigError
from pymesh.resources import check, kubernetes, policy, sizes
from pymesh.resources.documents import MAX_DEPTH, Document, describe, documents
from pymesh.resources.istio.authorization_policy import AuthorizationPolicy
from pymesh.resources.istio.destination_rule import DestinationRule
from pymesh.resources.istio.gateway import Gateway
from pymesh.resources.istio.peer_authentication import PeerAuthentication
from pymesh.resources.istio.request_authentication import RequestAuthentication
from pymesh.resources.istio.service_entry import ServiceEntry
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.nesting import is_deeper
from pymesh.resources.resource import Key, Positions, Resource, child_path

DEFAULT_NAMESPACE: Final = "default"


class _Kind(NamedTuple):
    group: str
    versions: tuple[str, ...]
    struct: type[object]
    namespaced: bool = True

    @property
    def name(self) -> str:
        return self.struct.__name__

    @property
    def api_versions(self) -> tuple[str, ...]:
        return tuple(f"{self.group}/{version}" if self.group else version for version in self.versions)


_NETWORKING: Final = ("networking.istio.io", ("v1", "v1beta1", "v1alpha3"))
_SECURITY: Final = ("security.istio.io", ("v1", "v1beta1"))
_POLICY: Final = (policy.GROUP, ("v1alpha1",))

_READ: Final = (
    _Kind("", ("v1",), kubernetes.Service),
    _Kind("", ("v1",), kubernetes.Pod),
    _Kind("", ("v1",), kubernetes.ServiceAccount),
    _Kind("", ("v1",), kubernetes.Node, namespaced=False),
    _Kind("", ("v1",), kubernetes.Namespace, namespaced=False),
    _Kind("", ("v1",), kubernetes.ConfigMap),
    _Kind("", ("v1",), kubernetes.Secret),
    _Kind("discovery.k8s.io", ("v1",), kubernetes.EndpointSlice),
    _Kind("apps", ("v1",), kubernetes.Deployment),
    _Kind(*_NETWORKING, VirtualService),
    _Kind(*_NETWORKING, DestinationRule),
    _Kind(*_NETWORKING, ServiceEntry),
    _Kind(*_NETWORKING, Gateway),
    _Kind(*_SECURITY, PeerAuthentication),
    _Kind(*_SECURITY, AuthorizationPolicy),
    _Kind(*_SECURITY, RequestAuthentication),
    _Kind(*_POLICY, policy.RateLimit),
    _Kind(*_POLICY, policy.ConcurrencyLimit),
    _Kind(*_POLICY, policy.Check),
)
_KINDS: Final[Mapping[tuple[str, str], _Kind]] = {(kind.group, kind.name): kind for kind in _READ}

# Mesh kinds of others that pymesh does not read yet. They are refused: to accept a policy and not to apply it is worse.
_NOT_YET: Final = frozenset(
    {
        ("networking.istio.io", "Sidecar"),
        ("networking.istio.io", "EnvoyFilter"),
        ("networking.istio.io", "WorkloadEntry"),
        ("networking.istio.io", "WorkloadGroup"),
        ("networking.istio.io", "ProxyConfig"),
        ("telemetry.istio.io", "Telemetry"),
        ("extensions.istio.io", "WasmPlugin"),
        ("extensions.istio.io", "TrafficExtension"),
        ("gateway.networking.k8s.io", "GatewayClass"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "HTTPRoute"),
        ("gateway.networking.k8s.io", "GRPCRoute"),
        ("gateway.networking.k8s.io", "ReferenceGrant"),
        ("gateway.networking.k8s.io", "BackendTLSPolicy"),
        ("gateway.networking.k8s.io", "TLSRoute"),
        ("gateway.networking.k8s.io", "TCPRoute"),
        ("gateway.networking.k8s.io", "ListenerSet"),
    }
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A document that is no resource. `key` is None if it cannot be said which one it was meant to be.

    `foreign`: of a kind that has nothing to do with the mesh, as far as can be told.
    """

    key: Key | None
    errors: tuple[ConfigError, ...]
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file holds."""

    resources: tuple[Resource[object], ...] = ()
    refused: tuple[Refused, ...] = ()

    @property
    def errors(self) -> tuple[ConfigError, ...]:
        """Everything that is wrong, in the order of the file."""
        return tuple(error for refused in self.refused for error in refused.errors)

    @property
    def anonymous(self) -> bool:
        """Whether a document is refused of which it cannot be said which resource it was meant to be."""
        return any(refused.key is None for refused in self.refused)


def structs() -> list[tuple[str, str, type[object]]]:
    """Group, kind and type of every kind that is read."""
    return [(group, kind, found.struct) for (group, kind), found in _KINDS.items()]


def kinds() -> list[str]:
    """The kinds that are read, as they are written in `kind:`."""
    return sorted(kind for _, kind in _KINDS)


def parse(text: str, file: str, namespace: str = DEFAULT_NAMESPACE) -> Parsed:
    """All resources in `text`, YAML or JSON; documents of kind List are taken apart.

    Args:
        text: content of the file.
        file: its name, for error messages.
        namespace: where a namespaced resource goes that does not say.
    """
    resources: list[Resource[object]] = []
    refused: list[Refused] = []
    for found in documents(text, file):
        results = [Refused(None, (found,))] if isinstance(found, ConfigError) else _resources(found, namespace)
        for result in results:
            if isinstance(result, Refused):
                refused.append(result)
            else:
                resources.append(result)
    return Parsed(tuple(resources), tuple(refused))


def reread(value: Mapping[str, object], positions: Positions, namespace: str = DEFAULT_NAMESPACE) -> Resource[object]:
    """A resource from its plain values, which were read before, perhaps by another release.

    Raises:
        ConfigError: they are no resource (any more); the first reason.
    """
    found = read(value, positions, namespace)
    if isinstance(found, Refused):
        raise found.errors[0]
    return found


def read(
    value: Mapping[str, object], positions: Positions, namespace: str = DEFAULT_NAMESPACE
) -> Resource[object] | Refused:
    """The resource that plain values stand for, as an API has them, or everything that keeps them from being one."""
    return _resource(value, positions, namespace)


def observed(value: Mapping[str, object], positions: Positions) -> Resource[object] | Refused:
    """An object as the Kubernetes API has it. Of one that is refused it is known, too, which one it is."""
    found = _resource(value, positions, "")
    if isinstance(found, Refused) and found.key is None:
        metadata = value["metadata"]
        assert isinstance(metadata, Mapping), "every object of the API has metadata"
        key = Key(str(value["kind"]), str(metadata.get("namespace") or ""), str(metadata["name"]))
        return Refused(key, tuple(error.placed(error.position, str(key)) for error in found.errors))
    return found


def _resources(document: Document, namespace: str) -> Iterator[Resource[object] | Refused]:
    kind, items = document.value.get("kind"), document.value.get("items")
    if kind != "List" or document.value.get("apiVersion") != "v1":
        yield _resource(document.value, document.positions, namespace)
    elif not isinstance(items, list):
        error = ConfigError("items of a List is a list of resources", position=document.positions.at("items"))
        yield Refused(None, (error,))
    else:
        for index, item in enumerate(items):
            positions = document.positions.below(child_path("items", index))
            if isinstance(item, dict):
                yield _resource(item, positions, namespace)
            else:
                sentence = f"a resource is a group of fields (apiVersion, kind, ...), not {describe(item)}"
                yield Refused(None, (ConfigError(sentence, position=positions.at("")),))


def _resource(value: Mapping[str, object], positions: Positions, namespace: str) -> Resource[object] | Refused:
    try:
        kind = _kind(value)
    except ConfigError as error:
        return Refused(None, (error.placed(positions.at(error.path)),), foreign=_is_foreign(value))
    key = _key(value, kind, namespace)
    found = _converted(value, kind)
    if isinstance(found, list):
        name = str(key or kind.name)
        return Refused(key, tuple(error.placed(positions.at(error.path), name) for error in found))
    assert key is not None, "whatever has been converted has a name"
    return Resource(key, str(value["apiVersion"]), found, value, positions)


def _converted(value: Mapping[str, object], kind: _Kind) -> object | list[ConfigError]:
    """The content of a resource, or everything that is wrong with it. What is too large is not looked into."""
    if excesses := sizes.excesses(kind.name, value):
        return [ConfigError(excess.sentence, path=excess.path) for excess in excesses]
    if is_deeper(value, MAX_DEPTH):
        return [ConfigError(f"it is nested deeper than {MAX_DEPTH} levels")]
    found = check.convert(value, kind.struct)
    if isinstance(found, list):
        return [ConfigError(_hushed(kind.struct, error), path=error.path) for error in found]
    return found


def _hushed(struct: type[object], error: ConfigError) -> str:
    """What is wrong, without the value that is wrong where that may be a secret."""
    if struct is kubernetes.Secret and error.path.partition(".")[0] in {"data", "stringData"}:
        return "a Secret holds text by key: put each value in quotes"
    return error.problem


def _kind(value: Mapping[str, object]) -> _Kind:
    api_version, name = value.get("apiVersion"), value.get("kind")
    for field, found in (("apiVersion", api_version), ("kind", name)):
        if found is None:
            raise ConfigError(f"'{field}' is missing: every resource says its apiVersion and its kind")
        if not isinstance(found, str):
            raise ConfigError(f"{describe(found)} is not text", path=field)
    group, _, version = str(api_version).rpartition("/")
    kind = _KINDS.get((group, str(name)))
    if kind is not None:
        if version in kind.versions:
            return kind
        raise ConfigError(
            f"version '{version}' of {name} is unknown: write apiVersion: {kind.api_versions[0]}", path="apiVersion"
        )
    if (group, str(name)) in _NOT_YET:
        raise ConfigError(f"{name} of {group} is not supported yet: remove it, it would not be applied", path="kind")
    for known_group, known_name in _KINDS:
        if known_name == name:
            right = _KINDS[known_group, known_name].api_versions[0]
            raise ConfigError(f"there is no {name} in '{api_version}': write apiVersion: {right}", path="apiVersion")
    hint = check.near(str(name), [kind_name for _, kind_name in _KINDS])
    raise ConfigError(f"the mesh does not read the kind '{name}' of '{api_version}'{hint}", path="kind")


def _is_foreign(value: Mapping[str, object]) -> bool:
    """Whether it is of a kind of its own, of a group that has no kind of the mesh."""
    api_version, name = value.get("apiVersion"), value.get("kind")
    if not isinstance(api_version, str) or not isinstance(name, str):
        return False
    group = api_version.rpartition("/")[0]
    known = {known_group for known_group, _ in (*_KINDS, *_NOT_YET)} - {"", "apps", "discovery.k8s.io"}
    return group not in known and all(name != kind for _, kind in _KINDS)


def _key(value: Mapping[str, object], kind: _Kind, namespace: str) -> Key | None:
    """Who the resource is, as far as that can be said before it is known to be right."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return None
    own = metadata.get("namespace") or namespace
    if not isinstance(own, str):
        return None
    return Key(str(value["kind"]), own if kind.namespaced else "", metadata["name"])
