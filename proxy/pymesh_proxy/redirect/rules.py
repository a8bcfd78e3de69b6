"""The redirect as data: which TCP connections of a pod go to the sidecar, and which pass it by.

Two chains, each jumped to from a built-in chain of the nat table, where the first packet of a connection decides for
all of it. `PYMESH_INBOUND` sees what comes from outside. `PYMESH_OUTPUT` sees what the pod's own processes dial, the
sidecar's connections among them, and its order is its meaning; `_outbound` has it line by line.
"""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeVar

from pymesh.errors import ConfigError
from pymesh.names import (
    INBOUND_SOURCE_V4,
    INBOUND_SOURCE_V6,
    PORT_METRICS,
    PORT_OUTBOUND,
    PORT_READINESS,
    PROXY_UID,
)

Network = IPv4Network | IPv6Network

INBOUND_CHAIN = "PYMESH_INBOUND"
OUTPUT_CHAIN = "PYMESH_OUTPUT"

# Istio's agent port: merged metrics and the app's own probes.
PORT_AGENT = 15020
# The sidecar answers these itself: kubelet and Prometheus must get through while it is not ready, and without mTLS.
RESERVED_INBOUND_PORTS = (PORT_AGENT, PORT_READINESS, PORT_METRICS)

# Entries in one list of options. Each becomes a rule that the kernel walks for every new connection.
MAX_ENTRIES = 512
MAX_PORT = 65535
# The kernel's uid_t and gid_t have 32 bits; the last value means "none".
MAX_ID = 2**32 - 2

# The kernel's IFNAMSIZ, without the closing NUL.
MAX_INTERFACE_LENGTH = 15

# A `+` at the end is iptables' wildcard.
_INTERFACE = re.compile(r"(?!-)[A-Za-z0-9_.@-]*\+?")

T = TypeVar("T")


class Family(enum.Enum):
    """An address family; each has a program, tables and addresses of its own."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    @property
    def loopback(self) -> Network:
        """What never leaves the pod."""
        return ip_network("127.0.0.0/8" if self is Family.IPV4 else "::1/128")

    @property
    def inbound_source(self) -> Network:
        """Where the sidecar dials the app from."""
        return ip_network(INBOUND_SOURCE_V4 if self is Family.IPV4 else INBOUND_SOURCE_V6)


@dataclass(frozen=True, slots=True)
class RedirectOptions:
    """What a person may choose. An exclusion always wins over an inclusion. None in an include means everything.

    `proxy_gid` is None unless asked for: the sidecar is known by its uid alone, so that an app that merely shares a
    group with it, as with `fsGroup`, does not slip past the mesh.

    Raises:
        ConfigError: a value cannot be; its `path` is the name of the field.
    """

    proxy_port: int = PORT_OUTBOUND
    inbound_port: int | None = None  # None: the same as proxy_port
    proxy_uid: int = PROXY_UID
    proxy_gid: int | None = None
    include_inbound_ports: tuple[int, ...] | None = None
    exclude_inbound_ports: tuple[int, ...] = ()
    include_outbound_ports: tuple[int, ...] = ()  # whatever their address, besides include_outbound_ranges
    exclude_outbound_ports: tuple[int, ...] = ()
    include_outbound_ranges: tuple[Network, ...] | None = None
    exclude_outbound_ranges: tuple[Network, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    ipv6: bool = True

    def __post_init__(self) -> None:
        """Refuse what iptables would refuse in its own words, and what would take the pod off the network."""
        self._check_proxy()
        for name in ("include_inbound_ports", "exclude_inbound_ports"):
            _check_ports(name, getattr(self, name) or ())
        for name in ("include_outbound_ports", "exclude_outbound_ports"):
            _check_ports(name, getattr(self, name))
        for name in ("include_outbound_ranges", "exclude_outbound_ranges", "exclude_interfaces"):
            _check_length(name, getattr(self, name) or ())
        for port in self.include_inbound_ports or ():
            if port in RESERVED_INBOUND_PORTS:
                raise ConfigError(f"{port} is answered by the sidecar itself", path="include_inbound_ports")
        for interface in self.exclude_interfaces:
            _check_interface(interface)

    def _check_proxy(self) -> None:
        for name, port in (("proxy_port", self.proxy_port), ("inbound_port", self.redirect_inbound_to)):
            _check_ports(name, (port,))
            if port in RESERVED_INBOUND_PORTS:
                raise ConfigError(f"{port} is the sidecar's port for probes and metrics", path=name)
        for name, number in (("proxy_uid", self.proxy_uid), ("proxy_gid", self.proxy_gid)):
            if number is not None and not 0 < number <= MAX_ID:
                why = "everything that runs as root would pass the mesh by" if number == 0 else "it is no such number"
                raise ConfigError(f"{number} cannot tell the sidecar from the app: {why}", path=name)

    @property
    def redirect_inbound_to(self) -> int:
        """The port that connections from outside are redirected to."""
        return self.proxy_port if self.inbound_port is None else self.inbound_port


def _check_length(name: str, entries: tuple[object, ...]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ConfigError(f"{len(entries)} entries are more than the {MAX_ENTRIES} allowed", path=name)


def _check_ports(name: str, ports: tuple[int, ...]) -> None:
    _check_length(name, ports)
    for port in ports:
        if not 0 < port <= MAX_PORT:
            raise ConfigError(f"{port} is not a port: 1 to {MAX_PORT}", path=name)


def _check_interface(interface: str) -> None:
    if not 0 < len(interface) <= MAX_INTERFACE_LENGTH or not _INTERFACE.fullmatch(interface):
        raise ConfigError(f"{interface!r} is not the name of an interface", path="exclude_interfaces")
    if interface == "lo" or (interface.endswith("+") and "lo".startswith(interface[:-1])):
        raise ConfigError(
            f"{interface!r} takes in the loopback interface, which is how the sidecar reaches the app",
            path="exclude_interfaces",
        )


# --- The rules -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Owner:
    """Matches a packet by the process that made its socket; `negated`, by what that process is not."""

    uid: int | None = None
    gid: int | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a chain. It concerns TCP connections that meet every condition given.

    `redirect_to` is the port that such a connection goes to; None returns it to the chain's caller untouched.
    """

    why: str
    redirect_to: int | None = None
    source: Network | None = None
    destination: Network | None = None
    destination_negated: bool = False
    in_interface: str = ""
    out_interface: str = ""
    destination_port: int | None = None
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours and the built-in chain of the nat table that TCP jumps to it from."""

    name: str
    hook: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All the rules of one address family."""

    family: Family
    chains: tuple[Chain, ...]


CHAIN_NAMES = (INBOUND_CHAIN, OUTPUT_CHAIN)


def rule_set(options: RedirectOptions, family: Family) -> RuleSet:
    """The rules that `options` ask for, in one family."""
    inbound = Chain(INBOUND_CHAIN, "PREROUTING", tuple(_inbound(options)))
    outbound = Chain(OUTPUT_CHAIN, "OUTPUT", tuple(_outbound(options, family)))
    return RuleSet(family, (inbound, outbound))


def families(options: RedirectOptions) -> tuple[Family, ...]:
    """The families that `options` redirect."""
    return (Family.IPV4, Family.IPV6) if options.ipv6 else (Family.IPV4,)


def _inbound(options: RedirectOptions) -> Iterator[Rule]:
    to = options.redirect_inbound_to
    for interface in _unique(options.exclude_interfaces):
        yield Rule(f"asked for: what comes in by {interface} is not captured", in_interface=interface)
    for port in RESERVED_INBOUND_PORTS:
        yield Rule("the sidecar answers probes and metrics itself", destination_port=port)
    for port in _unique(options.exclude_inbound_ports):
        yield Rule(f"asked for: inbound port {port} is not captured", destination_port=port)
    if options.include_inbound_ports is None:
        yield Rule("everything else from outside goes to the sidecar", redirect_to=to)
    for port in _unique(options.include_inbound_ports or ()):
        yield Rule(f"asked for: inbound port {port} goes to the sidecar", redirect_to=to, destination_port=port)


def _outbound(options: RedirectOptions, family: Family) -> Iterator[Rule]:
    yield Rule(
        "the sidecar hands an inbound connection to the app",
        source=family.inbound_source,
        out_interface="lo",
    )
    for owner in _proxy(options):
        yield Rule(
            "the sidecar dials its own pod for the app: a pod calling itself comes in like any other caller",
            redirect_to=options.redirect_inbound_to,
            destination=family.loopback,
            destination_negated=True,
            out_interface="lo",
            owner=owner,
        )
    yield Rule(
        "the app talks to itself, without the mesh",
        out_interface="lo",
        owner=Owner(options.proxy_uid, options.proxy_gid, negated=True),
    )
    for owner in _proxy(options):
        yield Rule("what the sidecar sends has been through the sidecar", owner=owner)
    yield Rule("loopback belongs to the pod, whatever interface it is routed to", destination=family.loopback)
    yield from _outbound_choices(options, family)


def _outbound_choices(options: RedirectOptions, family: Family) -> Iterator[Rule]:
    """What is left by now is the app calling the world."""
    to = options.proxy_port
    for interface in _unique(options.exclude_interfaces):
        yield Rule(f"asked for: what leaves by {interface} is not captured", out_interface=interface)
    for port in _unique(options.exclude_outbound_ports):
        yield Rule(f"asked for: outbound port {port} is not captured", destination_port=port)
    for network in _of_family(options.exclude_outbound_ranges, family):
        yield Rule(f"asked for: {network} is not captured", destination=network)
    for port in _unique(options.include_outbound_ports):
        yield Rule(f"asked for: outbound port {port} goes to the sidecar", redirect_to=to, destination_port=port)
    if options.include_outbound_ranges is None:
        yield Rule("everything else goes to the sidecar", redirect_to=to)
    for network in _of_family(options.include_outbound_ranges or (), family):
        yield Rule(f"asked for: {network} goes to the sidecar", redirect_to=to, destination=network)


def _proxy(options: RedirectOptions) -> tuple[Owner, ...]:
    """What the sidecar is known by: any one of these."""
    by_group = () if options.proxy_gid is None else (Owner(gid=options.proxy_gid),)
    return (Owner(uid=options.proxy_uid), *by_group)


def _of_family(networks: tuple[Network, ...], family: Family) -> list[Network]:
    version = 4 if family is Family.IPV4 else 6
    return [network for network in dict.fromkeys(networks) if network.version == version]


def _unique(entries: tuple[T, ...]) -> list[T]:
    return list(dict.fromkeys(entries))
