"""`pymesh-init`: lead this pod's traffic through its sidecar. Short options are Istio's, where Istio has them."""

import argparse
import sys
from collections.abc import Sequence
from ipaddress import ip_network
from typing import NoReturn

from pymesh.errors import ConfigError
from pymesh.names import PORT_INBOUND, PORT_OUTBOUND, PROXY_UID
from pymesh_proxy.redirect import runner
from pymesh_proxy.redirect.restore import clean_script, install_script
from pymesh_proxy.redirect.rules import RESERVED_INBOUND_PORTS, Network, RedirectOptions, families, rule_set

EVERYTHING = "*"

DESCRIPTION = """\
Redirect the TCP connections of this network namespace to the sidecar, with iptables. Run as root in the pod, before the
app starts. Running it again replaces the rules of the last run; rules of others are never touched.
"""
EPILOG = f"""\
A LIST is separated by commas. {EVERYTHING!r} means everything, an empty LIST nothing; an exclusion wins over an
inclusion. Exit status: 0 done, 1 it could not be done, 2 the command line is wrong.
"""


class _Unsupported(argparse.Action):
    """An option of Istio's that cannot mean anything here: refused with the reason rather than as unknown."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(
            "-k is not supported: traffic that arrives on another interface for another address is exactly what the "
            "sidecar refuses, since it would go on under this pod's identity"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        options = _options(given)
    except ConfigError as error:
        option = error.path.replace("_", "-")
        parser.error(f"argument --{option}: {error.problem}")
    if given.dry_run:
        rule_sets = [rule_set(options, family) for family in families(options)]
        sys.stdout.write(clean_script(rule_sets) if given.clean else install_script(rule_sets))
        return 0
    try:
        report = runner.clean() if given.clean else runner.install(options)
    except runner.RedirectError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(*report, sep="\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pymesh-init", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    what = parser.add_argument_group("what to do, other than to install the rules")
    what.add_argument("--clean", action="store_true", help="remove the rules of earlier runs, and nothing else")
    what.add_argument("-n", "--dry-run", action="store_true", help="change nothing: print a shell script that would")
    _add_proxy_options(parser.add_argument_group("the sidecar"))
    _add_inbound_options(parser.add_argument_group("connections from outside"))
    _add_outbound_options(parser.add_argument_group("connections of the app"))
    both = parser.add_argument_group("both")
    both.add_argument(
        "-c",
        "--exclude-interfaces",
        metavar="LIST",
        type=_names,
        default="",
        help="capture nothing on these interfaces",
    )
    both.add_argument(
        "--ipv6",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="redirect IPv6 as well where it is on (default: yes); --no-ipv6 lets it pass the mesh by",
    )
    both.add_argument("-m", "--mode", choices=["REDIRECT"], default="REDIRECT", help="there is only this one")
    both.add_argument("-k", action=_Unsupported, help=argparse.SUPPRESS)
    return parser


def _add_proxy_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-p",
        "--proxy-port",
        metavar="PORT",
        type=_number,
        default=PORT_OUTBOUND,
        help="its port (default: %(default)s)",
    )
    group.add_argument(
        "-z",
        "--inbound-port",
        metavar="PORT",
        type=_number,
        help=f"its port for inbound connections, if another: {PORT_INBOUND} for Envoy (default: the same)",
    )
    group.add_argument(
        "-u",
        "--proxy-uid",
        metavar="UID",
        type=_number,
        default=PROXY_UID,
        help="the user it runs as; what it sends itself is not captured (default: %(default)s)",
    )
    group.add_argument(
        "-g", "--proxy-gid", metavar="GID", type=_number, help="also take this group for the sidecar (default: none)"
    )


def _add_inbound_options(group: argparse._ArgumentGroup) -> None:
    reserved = ", ".join(map(str, RESERVED_INBOUND_PORTS))
    group.add_argument(
        "-b",
        "--include-inbound-ports",
        metavar="LIST",
        type=_ports_or_everything,
        default=EVERYTHING,
        help=f"capture only these ports (default: {EVERYTHING})",
    )
    group.add_argument(
        "-d",
        "--exclude-inbound-ports",
        metavar="LIST",
        type=_ports,
        default="",
        help=f"do not capture these ports; {reserved} never are",
    )


def _add_outbound_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-i",
        "--include-outbound-ranges",
        metavar="LIST",
        type=_networks_or_everything,
        default=EVERYTHING,
        help=f"capture only these address ranges, as 10.96.0.0/16 (default: {EVERYTHING})",
    )
    group.add_argument(
        "-x",
        "--exclude-outbound-ranges",
        metavar="LIST",
        type=_networks,
        default="",
        help="do not capture these address ranges",
    )
    group.add_argument(
        "-q",
        "--include-outbound-ports",
        metavar="LIST",
        type=_ports,
        default="",
        help="capture these ports besides the ranges of -i, whatever the address",
    )
    group.add_argument(
        "-o", "--exclude-outbound-ports", metavar="LIST", type=_ports, default="", help="do not capture these ports"
    )


def _options(given: argparse.Namespace) -> RedirectOptions:
    return RedirectOptions(
        proxy_port=given.proxy_port,
        inbound_port=given.inbound_port,
        proxy_uid=given.proxy_uid,
        proxy_gid=given.proxy_gid,
        include_inbound_ports=given.include_inbound_ports,
        exclude_inbound_ports=given.exclude_inbound_ports,
        include_outbound_ports=given.include_outbound_ports,
        exclude_outbound_ports=given.exclude_outbound_ports,
        include_outbound_ranges=given.include_outbound_ranges,
        exclude_outbound_ranges=given.exclude_outbound_ranges,
        exclude_interfaces=given.exclude_interfaces,
        ipv6=given.ipv6,
    )


# --- Values; argparse adds the option's name to the message --------------------------------------------------------


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _ports(text: str) -> tuple[int, ...]:
    return tuple(map(_number, _names(text)))


def _ports_or_everything(text: str) -> tuple[int, ...] | None:
    return None if text.strip() == EVERYTHING else _ports(text)


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(map(_network, _names(text)))


def _networks_or_everything(text: str) -> tuple[Network, ...] | None:
    return None if text.strip() == EVERYTHING else _networks(text)


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: write a range as 10.96.0.0/16 or fd00:96::/112") from None


if __name__ == "__main__":
    sys.exit(main())
