"""Puts the rules into this network namespace, and takes them out again, through the iptables programs it finds.

Whichever variant `iptables-restore` on the PATH is, nft or legacy, is the one used, unless the kernel, which is the
node's and not the image's, has only what the other one needs.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv6Address
from pathlib import Path

from pymesh.errors import MeshError
from pymesh.names import INBOUND_SOURCE_V6
from pymesh_proxy.redirect.restore import (
    ADD_INBOUND_SOURCE,
    LOCK_WAIT_SECONDS,
    REMOVE_INBOUND_SOURCE,
    RESTORE_ARGUMENTS,
    clean_input,
    install_input,
    restore_program,
    save_program,
)
from pymesh_proxy.redirect.rules import Family, RedirectOptions, families, rule_set

# Where distributions keep these programs, whether or not the PATH of the container says so.
SYSTEM_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/local/sbin")
# Seconds for one program: the wait for the lock, and as much again to do the work on a starved machine.
PROGRAM_TIMEOUT_SECONDS = 2 * LOCK_WAIT_SECONDS
# Characters of a program's complaint that are shown.
MAX_COMPLAINT_CHARS = 1000

# The system's own choice, then each kind by its name.
VARIANTS = ("", "nft", "legacy")

CAP_NET_ADMIN = 12  # linux/capability.h
# As /proc/net/if_inet6 writes it.
INBOUND_SOURCE_IN_PROC = IPv6Address(INBOUND_SOURCE_V6).packed.hex()

PACKAGES = {"ip": "iproute2 (Debian, Ubuntu, Alpine) or iproute (Fedora)"}
IPTABLES_PACKAGE = "iptables (Debian, Ubuntu, Alpine) or iptables-nft (Fedora)"

# What these programs say when something other than the rules is amiss, in lower case, and what that means.
EXPLANATIONS = (
    ("permission denied", "root is needed, or the capabilities NET_ADMIN and NET_RAW"),
    ("operation not permitted", "root is needed, or the capabilities NET_ADMIN and NET_RAW"),
    ("missing kernel module", "the kernel lacks a match or target that the rules need (xt_owner, xt_REDIRECT)"),
    ("couldn't load", "this iptables lacks an extension that the rules need: its package is incomplete"),
    ("find library for", "this iptables lacks an extension that the rules need: its package is incomplete"),
    ("extension not found", "this iptables lacks an extension that the rules need: its package is incomplete"),
    ("table does not exist", "the kernel has no nat table for this iptables variant (iptable_nat, nf_tables)"),
    ("failed to initialize nft", "the kernel has no nf_tables, which this iptables variant needs"),
    ("xtables lock", f"another program held the iptables lock for more than {LOCK_WAIT_SECONDS} s"),
)


class RedirectError(MeshError):
    """The redirect could not be put in place or taken out; the text says why, and what to do about it."""


def install(options: RedirectOptions) -> list[str]:
    """Make this network namespace's redirect what `options` say, whatever it was; lines for the person who asked.

    IPv6 goes first: where it is missing from the kernel this fails before anything has changed.

    Raises:
        RedirectError: it could not be done. A family's rules are replaced as a whole or not at all.
    """
    _require_capability()
    report = []
    for family in reversed(families(options)):
        if family is Family.IPV6 and not ipv6_is_on():
            report.append("IPv6 is off in this network namespace: there is nothing to redirect")
            continue
        if family is Family.IPV6:
            _run(ADD_INBOUND_SOURCE)
        _restore(family, install_input(rule_set(options, family), _saved(family)))
        report.append(f"{family.value}: {_summary(options)}")
    if not options.ipv6:
        report += _leave_ipv6_alone()
    return report


def clean() -> list[str]:
    """Take our chains, the jumps to them and the address out of this network namespace; lines for the person who asked.

    Raises:
        RedirectError: it could not be done.
    """
    _require_capability()
    report = [f"{family.value}: {_clean_family(family)}" for family in Family if _may_have_rules(family)]
    _remove_inbound_source()
    return report


def ipv6_is_on() -> bool:
    """Whether any interface of this network namespace may have an IPv6 address."""
    for switch in Path("/proc/sys/net/ipv6/conf").glob("*/disable_ipv6"):
        if switch.parent.name in {"all", "default"}:  # what interfaces get, not what they have
            continue
        with contextlib.suppress(FileNotFoundError):  # an interface that went away meanwhile
            if switch.read_text().strip() == "0":
                return True
    return False


def explain(program: str, complaint: str) -> str:
    """One sentence for what `program` wrote to its standard error, which is kept, bounded, behind the meaning."""
    said = "; ".join(line.strip() for line in complaint.splitlines() if line.strip())[:MAX_COMPLAINT_CHARS]
    for sign, meaning in EXPLANATIONS:
        if sign in said.lower():
            return f"{meaning} ({program}: {said})"
    return f"{program} failed: {said or 'it did not say why'}"


def _leave_ipv6_alone() -> list[str]:
    """With IPv6 not wanted: remove what an earlier run did, and say so if traffic can pass the mesh by."""
    report = []
    if _may_have_rules(Family.IPV6) and clean_input(_saved(Family.IPV6)):
        report.append(f"IPv6: {_clean_family(Family.IPV6)}")
    _remove_inbound_source()
    if ipv6_is_on():
        report.append("warning: IPv6 is on and not redirected, as asked for: connections over it pass the mesh by")
    return report


def _may_have_rules(family: Family) -> bool:
    """IPv4 always; IPv6 if its program is there. If it is not, then nobody could have loaded a rule."""
    return family is Family.IPV4 or _find(save_program(family)) is not None


def _clean_family(family: Family) -> str:
    text = clean_input(_saved(family))
    if text is None:
        return "no rules of pymesh-init"
    _restore(family, text)
    return "rules removed"


def _remove_inbound_source() -> None:
    try:
        addresses = Path("/proc/net/if_inet6").read_text()
    except FileNotFoundError:  # a kernel without IPv6
        return
    if any(line.split()[0] == INBOUND_SOURCE_IN_PROC for line in addresses.splitlines()):
        _run(REMOVE_INBOUND_SOURCE)


def _summary(options: RedirectOptions) -> str:
    inbound = "no port" if options.include_inbound_ports == () else f"port {options.redirect_inbound_to}"
    captures_nothing = options.include_outbound_ranges == () and not options.include_outbound_ports
    outbound = "no port" if captures_nothing else f"port {options.proxy_port}"
    return f"inbound to {inbound}, outbound to {outbound}, all but uid {options.proxy_uid}"


def _require_capability() -> None:
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    if not int(effective.split()[1], 16) >> CAP_NET_ADMIN & 1:
        raise RedirectError(
            "root is needed: the redirect changes the nat table of this network namespace "
            f"(uid {os.geteuid()} lacks the capability NET_ADMIN)"
        )


@cache
def _variant(family: Family) -> str:
    """The first of VARIANTS that can show the nat table here; the system's complaint counts if none can."""
    complaint: RedirectError | None = None
    for variant in VARIANTS:
        try:
            _run((save_program(family, variant), "-t", "nat"))
        except RedirectError as error:
            complaint = complaint or error
        else:
            return variant
    assert complaint is not None
    raise complaint


def _saved(family: Family) -> str:
    return _run((save_program(family, _variant(family)), "-t", "nat"))


def _restore(family: Family, text: str) -> None:
    _run((restore_program(family, _variant(family)), *RESTORE_ARGUMENTS), text)


def _find(program: str) -> str | None:
    """Where `program` is. An empty entry in the PATH, the current directory, is no place for root to look."""
    directories = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *SYSTEM_DIRECTORIES]
    return shutil.which(program, path=os.pathsep.join(filter(None, directories)))


def _run(argv: Sequence[str], text: str = "") -> str:
    """The standard output of `argv`, which gets `text` on its standard input."""
    program = _find(argv[0])
    if program is None:
        raise RedirectError(
            f"{argv[0]} was not found: install the package {PACKAGES.get(argv[0], IPTABLES_PACKAGE)}"
            + (", or leave IPv6 alone with --no-ipv6" if argv[0].startswith("ip6") else "")
        )
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=PROGRAM_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},  # EXPLANATIONS knows the messages in English
        )
    except subprocess.TimeoutExpired:
        raise RedirectError(f"{argv[0]} did not end within {PROGRAM_TIMEOUT_SECONDS} s") from None
    except OSError as error:
        raise RedirectError(f"{program} could not be started: {error.strerror}") from None
    if done.returncode:
        raise RedirectError(explain(argv[0], done.stderr))
    return done.stdout
