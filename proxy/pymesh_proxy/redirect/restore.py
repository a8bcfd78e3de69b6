"""The rules in iptables' own words: input for `iptables-restore --noflush`, made from what `iptables-save` shows. Pure.

A restore is one transaction: the kernel takes all of the input or nothing, so there is no moment with half a redirect.
Rules are written the way iptables-save prints them, so that what is in force can be compared with what was meant.
"""

from collections.abc import Iterable, Iterator, Sequence

from pymesh.names import INBOUND_SOURCE_V6
from pymesh_proxy.redirect.rules import CHAIN_NAMES, Chain, Family, Owner, Rule, RuleSet

# Seconds that iptables-legacy waits for another program to release its lock; the nft variant has no lock.
LOCK_WAIT_SECONDS = 10

RESTORE_ARGUMENTS = ("--noflush", f"--wait={LOCK_WAIT_SECONDS}")
# The IPv6 address that the sidecar dials the app from. Its IPv4 sibling needs no line: all of 127.0.0.0/8 is local.
ADD_INBOUND_SOURCE = ("ip", "-6", "address", "replace", f"{INBOUND_SOURCE_V6}/128", "dev", "lo")
REMOVE_INBOUND_SOURCE = ("ip", "-6", "address", "delete", f"{INBOUND_SOURCE_V6}/128", "dev", "lo")


def restore_program(family: Family, variant: str = "") -> str:
    """The program that loads rules of `family`; `variant` as in `iptables-legacy-restore`, empty for the system's."""
    return f"{_tables(family)}{variant and f'-{variant}'}-restore"


def save_program(family: Family, variant: str = "") -> str:
    """The program that shows rules of `family`, likewise."""
    return f"{_tables(family)}{variant and f'-{variant}'}-save"


def _tables(family: Family) -> str:
    return "iptables" if family is Family.IPV4 else "ip6tables"


def install_input(rules: RuleSet, saved: str) -> str:
    """What makes the nat table shown by `saved` hold exactly `rules` besides what others put there.

    A jump that is there stays where it is, so foreign rules before and after it keep their places.
    """
    wanted = {_jump(chain) for chain in rules.chains}
    present: set[str] = set()
    lines: list[str] = []
    for jump in _jumps_to_us(saved):
        if jump in wanted and jump not in present:
            present.add(jump)
        else:
            lines.append(_deletion(jump))
    lines += [jump for jump in map(_jump, rules.chains) if jump not in present]
    for chain in rules.chains:
        for rule in chain.rules:
            lines += [f"# {rule.why}", f"-A {chain.name} {rule_text(rule)}"]
    return _table(CHAIN_NAMES, lines)


def clean_input(saved: str) -> str | None:
    """What removes our chains, and every jump to one, from the nat table shown by `saved`; None if it has none.

    Naming a chain in a restore empties it, so that it can be deleted in the same transaction.
    """
    chains = [name for name in CHAIN_NAMES if f"\n:{name} " in f"\n{saved}"]
    if not chains:
        return None
    return _table(chains, [*map(_deletion, _jumps_to_us(saved)), *(f"-X {name}" for name in chains)])


def install_script(rule_sets: Iterable[RuleSet]) -> str:
    """A shell script that installs `rule_sets` in a network namespace that has none of ours."""
    parts = ["set -e\n"]
    for rules in rule_sets:
        if rules.family is Family.IPV6:
            parts.append(" ".join(ADD_INBOUND_SOURCE) + "\n")
        parts.append(_here_document(rules.family, install_input(rules, "")))
    return "".join(parts)


def clean_script(rule_sets: Iterable[RuleSet]) -> str:
    """A shell script that undoes `install_script`."""
    parts = ["set -e\n"]
    for rules in rule_sets:
        # The input that installs has the chains and the jumps in the same words as iptables-save.
        parts.append(_here_document(rules.family, clean_input(install_input(rules, "")) or ""))
        if rules.family is Family.IPV6:
            parts.append(" ".join(REMOVE_INBOUND_SOURCE) + "\n")
    return "".join(parts)


def rule_text(rule: Rule) -> str:
    """`rule` as iptables-save prints it, without the chain: `-s 127.0.0.6/32 -o lo -p tcp -j RETURN`."""
    return " ".join(_words(rule))


def _words(rule: Rule) -> Iterator[str]:
    # A match on everything is no match, and iptables-save does not print it.
    if rule.source is not None and rule.source.prefixlen:
        yield f"-s {rule.source}"
    if rule.destination is not None and rule.destination.prefixlen:
        yield f"{_not(rule.destination_negated)}-d {rule.destination}"
    if rule.in_interface:
        yield f"-i {rule.in_interface}"
    if rule.out_interface:
        yield f"-o {rule.out_interface}"
    yield "-p tcp"
    if rule.destination_port is not None:
        yield f"-m tcp --dport {rule.destination_port}"
    if rule.owner is not None:
        yield from _owner_words(rule.owner)
    yield "-j RETURN" if rule.redirect_to is None else f"-j REDIRECT --to-ports {rule.redirect_to}"


def _owner_words(owner: Owner) -> Iterator[str]:
    yield "-m owner"
    if owner.uid is not None:
        yield f"{_not(owner.negated)}--uid-owner {owner.uid}"
    if owner.gid is not None:
        yield f"{_not(owner.negated)}--gid-owner {owner.gid}"


def _not(negated: bool) -> str:
    return "! " if negated else ""


def _jump(chain: Chain) -> str:
    return f"-A {chain.hook} -p tcp -j {chain.name}"


def _jumps_to_us(saved: str) -> list[str]:
    """Every rule that jumps, or goes, to a chain of ours; none of ours does, so all of them stand in other chains."""
    lines = [line.strip() for line in saved.splitlines()]
    return [line for line in lines if line.startswith("-A ") and line.split()[-1] in CHAIN_NAMES]


def _deletion(rule: str) -> str:
    return f"-D {rule.removeprefix('-A ')}"


def _table(chains: Sequence[str], lines: Iterable[str]) -> str:
    return "\n".join(["*nat", *(f":{name} - [0:0]" for name in chains), *lines, "COMMIT", ""])


def _here_document(family: Family, text: str) -> str:
    return f"{restore_program(family)} {' '.join(RESTORE_ARGUMENTS)} <<'END'\n{text}END\n"
