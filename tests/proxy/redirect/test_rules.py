"""The rules as data: every option, and what it does to the lines of each chain."""

from ipaddress import ip_network

import pytest

from pymesh.errors import ConfigError
from pymesh_proxy.redirect.restore import rule_text
from pymesh_proxy.redirect.rules import MAX_ENTRIES, Family, RedirectOptions, families, rule_set

INBOUND = [
    "-p tcp -m tcp --dport 15020 -j RETURN",
    "-p tcp -m tcp --dport 15021 -j RETURN",
    "-p tcp -m tcp --dport 15090 -j RETURN",
    "-p tcp -j REDIRECT --to-ports 15001",
]
OUTBOUND = [
    "-s 127.0.0.6/32 -o lo -p tcp -j RETURN",
    "! -d 127.0.0.0/8 -o lo -p tcp -m owner --uid-owner 1337 -j REDIRECT --to-ports 15001",
    "-o lo -p tcp -m owner ! --uid-owner 1337 -j RETURN",
    "-p tcp -m owner --uid-owner 1337 -j RETURN",
    "-d 127.0.0.0/8 -p tcp -j RETURN",
    "-p tcp -j REDIRECT --to-ports 15001",
]
OUTBOUND_IPV6 = [
    "-s ::6/128 -o lo -p tcp -j RETURN",
    "! -d ::1/128 -o lo -p tcp -m owner --uid-owner 1337 -j REDIRECT --to-ports 15001",
    "-o lo -p tcp -m owner ! --uid-owner 1337 -j RETURN",
    "-p tcp -m owner --uid-owner 1337 -j RETURN",
    "-d ::1/128 -p tcp -j RETURN",
    "-p tcp -j REDIRECT --to-ports 15001",
]


def inbound(options: RedirectOptions, family: Family = Family.IPV4) -> list[str]:
    return [rule_text(rule) for rule in rule_set(options, family).chains[0].rules]


def outbound(options: RedirectOptions, family: Family = Family.IPV4) -> list[str]:
    return [rule_text(rule) for rule in rule_set(options, family).chains[1].rules]


def test_without_options_the_rules_are_those_of_the_design() -> None:
    options = RedirectOptions()
    assert inbound(options) == inbound(options, Family.IPV6) == INBOUND
    assert outbound(options) == OUTBOUND
    assert outbound(options, Family.IPV6) == OUTBOUND_IPV6


def test_the_chains_hang_on_prerouting_and_output() -> None:
    chains = rule_set(RedirectOptions(), Family.IPV4).chains
    assert [(chain.name, chain.hook) for chain in chains] == [
        ("PYMESH_INBOUND", "PREROUTING"),
        ("PYMESH_OUTPUT", "OUTPUT"),
    ]


def test_every_rule_says_why() -> None:
    options = RedirectOptions(
        exclude_interfaces=("eth1",), exclude_inbound_ports=(9100,), include_outbound_ports=(443,)
    )
    assert all(rule.why for chain in rule_set(options, Family.IPV4).chains for rule in chain.rules)


def test_both_families_unless_told_otherwise() -> None:
    assert families(RedirectOptions()) == (Family.IPV4, Family.IPV6)
    assert families(RedirectOptions(ipv6=False)) == (Family.IPV4,)


def test_another_port_for_both_directions() -> None:
    options = RedirectOptions(proxy_port=4140)
    assert inbound(options) == [*INBOUND[:3], "-p tcp -j REDIRECT --to-ports 4140"]
    assert outbound(options) == [line.replace("15001", "4140") for line in OUTBOUND]


def test_a_port_for_inbound_takes_the_pod_calling_itself_as_well() -> None:
    options = RedirectOptions(inbound_port=15006)
    assert inbound(options)[-1] == "-p tcp -j REDIRECT --to-ports 15006"
    assert outbound(options) == [OUTBOUND[0], OUTBOUND[1].replace("15001", "15006"), *OUTBOUND[2:]]


def test_another_user() -> None:
    assert outbound(RedirectOptions(proxy_uid=2102)) == [line.replace("1337", "2102") for line in OUTBOUND]


def test_a_group_counts_as_the_sidecar_besides_its_user() -> None:
    assert outbound(RedirectOptions(proxy_gid=1338)) == [
        OUTBOUND[0],
        OUTBOUND[1],
        OUTBOUND[1].replace("--uid-owner 1337", "--gid-owner 1338"),
        "-o lo -p tcp -m owner ! --uid-owner 1337 ! --gid-owner 1338 -j RETURN",
        OUTBOUND[3],
        "-p tcp -m owner --gid-owner 1338 -j RETURN",
        *OUTBOUND[4:],
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(
            RedirectOptions(exclude_inbound_ports=(22, 9100, 22)),
            [*INBOUND[:3], "-p tcp -m tcp --dport 22 -j RETURN", "-p tcp -m tcp --dport 9100 -j RETURN", INBOUND[3]],
            id="exclude-ports-each-once",
        ),
        pytest.param(
            RedirectOptions(include_inbound_ports=(80, 443)),
            [
                *INBOUND[:3],
                "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001",
                "-p tcp -m tcp --dport 443 -j REDIRECT --to-ports 15001",
            ],
            id="include-ports",
        ),
        pytest.param(RedirectOptions(include_inbound_ports=()), INBOUND[:3], id="include-none"),
        pytest.param(
            RedirectOptions(exclude_interfaces=("eth1",)), ["-i eth1 -p tcp -j RETURN", *INBOUND], id="interface"
        ),
    ],
)
def test_inbound_choices(options: RedirectOptions, expected: list[str]) -> None:
    assert inbound(options) == inbound(options, Family.IPV6) == expected


@pytest.mark.parametrize(
    ("options", "after_line_5"),
    [
        pytest.param(
            RedirectOptions(exclude_outbound_ports=(5432,)),
            ["-p tcp -m tcp --dport 5432 -j RETURN", OUTBOUND[5]],
            id="exclude-port",
        ),
        pytest.param(
            RedirectOptions(exclude_outbound_ranges=(ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
            ["-d 10.0.0.0/8 -p tcp -j RETURN", OUTBOUND[5]],
            id="exclude-range",
        ),
        pytest.param(
            RedirectOptions(include_outbound_ranges=(ip_network("10.96.0.0/16"), ip_network("192.0.2.1"))),
            [
                "-d 10.96.0.0/16 -p tcp -j REDIRECT --to-ports 15001",
                "-d 192.0.2.1/32 -p tcp -j REDIRECT --to-ports 15001",
            ],
            id="include-ranges",
        ),
        pytest.param(
            RedirectOptions(include_outbound_ranges=(ip_network("0.0.0.0/0"),)),
            [OUTBOUND[5]],
            id="include-a-range-of-all",
        ),
        pytest.param(RedirectOptions(include_outbound_ranges=()), [], id="include-none"),
        pytest.param(
            RedirectOptions(include_outbound_ranges=(), include_outbound_ports=(443,)),
            ["-p tcp -m tcp --dport 443 -j REDIRECT --to-ports 15001"],
            id="include-port-only",
        ),
        pytest.param(
            RedirectOptions(exclude_interfaces=("eth1",)), ["-o eth1 -p tcp -j RETURN", OUTBOUND[5]], id="interface"
        ),
        pytest.param(
            RedirectOptions(
                exclude_interfaces=("net+",),
                exclude_outbound_ports=(25,),
                exclude_outbound_ranges=(ip_network("10.1.0.0/16"),),
                include_outbound_ports=(443,),
                include_outbound_ranges=(ip_network("10.0.0.0/8"),),
            ),
            [
                "-o net+ -p tcp -j RETURN",
                "-p tcp -m tcp --dport 25 -j RETURN",
                "-d 10.1.0.0/16 -p tcp -j RETURN",
                "-p tcp -m tcp --dport 443 -j REDIRECT --to-ports 15001",
                "-d 10.0.0.0/8 -p tcp -j REDIRECT --to-ports 15001",
            ],
            id="all-exclusions-before-all-inclusions",
        ),
    ],
)
def test_outbound_choices_stand_after_line_5(options: RedirectOptions, after_line_5: list[str]) -> None:
    assert outbound(options) == [*OUTBOUND[:5], *after_line_5]


def test_a_range_is_a_rule_of_its_own_family_only() -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    options = RedirectOptions(include_outbound_ranges=networks)
    assert outbound(options)[5:] == ["-d 10.0.0.0/8 -p tcp -j REDIRECT --to-ports 15001"]
    assert outbound(options, Family.IPV6)[5:] == ["-d fd00::/8 -p tcp -j REDIRECT --to-ports 15001"]


@pytest.mark.parametrize(
    ("values", "path", "problem"),
    [
        ({"proxy_port": 0}, "proxy_port", "0 is not a port"),
        ({"proxy_port": 65536}, "proxy_port", "65536 is not a port"),
        ({"proxy_port": 15021}, "proxy_port", "15021 is the sidecar's port for probes and metrics"),
        ({"inbound_port": 0}, "inbound_port", "0 is not a port"),
        ({"inbound_port": 15090}, "inbound_port", "15090 is the sidecar's port for probes and metrics"),
        ({"proxy_uid": 0}, "proxy_uid", "0 cannot tell the sidecar from the app: everything that runs as root"),
        ({"proxy_uid": 2**32 - 1}, "proxy_uid", "it is no such number"),
        ({"proxy_gid": 0}, "proxy_gid", "0 cannot tell the sidecar from the app"),
        ({"include_inbound_ports": (80, 15021)}, "include_inbound_ports", "15021 is answered by the sidecar itself"),
        ({"include_inbound_ports": (70000,)}, "include_inbound_ports", "70000 is not a port"),
        ({"exclude_inbound_ports": (0,)}, "exclude_inbound_ports", "0 is not a port"),
        ({"include_outbound_ports": (0,)}, "include_outbound_ports", "0 is not a port"),
        ({"exclude_outbound_ports": (0,)}, "exclude_outbound_ports", "0 is not a port"),
        ({"exclude_outbound_ports": (1,) * (MAX_ENTRIES + 1)}, "exclude_outbound_ports", "513 entries are more than"),
        (
            {"include_outbound_ranges": (ip_network("10.0.0.0/8"),) * (MAX_ENTRIES + 1)},
            "include_outbound_ranges",
            "513 entries are more than the 512 allowed",
        ),
        ({"exclude_interfaces": ("lo",)}, "exclude_interfaces", "'lo' takes in the loopback interface"),
        ({"exclude_interfaces": ("l+",)}, "exclude_interfaces", "'l+' takes in the loopback interface"),
        ({"exclude_interfaces": ("+",)}, "exclude_interfaces", "'+' takes in the loopback interface"),
        ({"exclude_interfaces": ("",)}, "exclude_interfaces", "'' is not the name of an interface"),
        ({"exclude_interfaces": ("eth0 -j ACCEPT",)}, "exclude_interfaces", "is not the name of an interface"),
        ({"exclude_interfaces": ("eth0\n",)}, "exclude_interfaces", "is not the name of an interface"),
        ({"exclude_interfaces": ("-j",)}, "exclude_interfaces", "is not the name of an interface"),
        ({"exclude_interfaces": ("sixteen-letters-",)}, "exclude_interfaces", "is not the name of an interface"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_the_field(
    values: dict[str, object], path: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        RedirectOptions(**values)  # type: ignore[arg-type]  # the table above has the types of each field
    assert refused.value.path == path
    assert problem in refused.value.problem
