"""pymesh-init in real namespaces, with both variants of iptables: what is in the kernel before, between and after."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymesh_proxy.redirect import runner
from pymesh_proxy.redirect.restore import install_input, rule_text
from pymesh_proxy.redirect.rules import Family, RedirectOptions, rule_set
from tests.support.netns import Network, Pod

pytestmark = pytest.mark.netns

PYMESH_INIT = [sys.executable, "-m", "pymesh_proxy.redirect"]
PROGRAMS = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
SAVE = {Family.IPV4: "iptables-save", Family.IPV6: "ip6tables-save"}


@pytest.fixture(params=["nft", "legacy"])
def variant(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A PATH whose first directory has the programs of this variant under their common names."""
    for program in PROGRAMS:
        real = shutil.which(program.replace("tables", f"tables-{request.param}"), path="/usr/sbin:/sbin")
        assert real, f"{program} of the {request.param} variant is part of Debian's package iptables"
        (tmp_path / program).symlink_to(real)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return str(request.param)


@pytest.fixture
def pod() -> Iterator[Pod]:
    with Network() as net:
        yield net.pod("a")


def saved(pod: Pod, family: Family) -> list[str]:
    """The nat table without comments and counters; an empty table and no table are the same."""
    lines = pod.run([SAVE[family], "-t", "nat"]).stdout.splitlines()
    return [line for line in lines if line.startswith(("-A", ":PYMESH"))]


def has_inbound_source(pod: Pod) -> bool:
    return "inet6 ::6/128" in pod.run(["ip", "-6", "address", "show", "dev", "lo"]).stdout


@pytest.mark.parametrize("family", Family)
def test_the_kernel_holds_the_rules_word_for_word(pod: Pod, variant: str, family: Family) -> None:
    pod.run(PYMESH_INIT)
    chains = rule_set(RedirectOptions(), family).chains
    jumps = [f"-A {chain.hook} -p tcp -j {chain.name}" for chain in chains]
    rules = [f"-A {chain.name} {rule_text(rule)}" for chain in chains for rule in chain.rules]
    assert [line for line in saved(pod, family) if line.startswith("-A")] == jumps + rules
    assert has_inbound_source(pod)


@pytest.mark.parametrize("other", ["nft", "legacy"])
def test_where_the_kernel_has_not_what_the_systems_variant_needs_the_other_is_used(
    pod: Pod, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in PROGRAMS:
        for name in (program, program.replace("tables", f"tables-{'legacy' if other == 'nft' else 'nft'}")):
            (tmp_path / name).write_text(
                "#!/bin/sh\necho 'Failed to initialize nft: Protocol not supported' >&2; exit 3\n"
            )
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "inbound to port 15001" in pod.run(PYMESH_INIT).stdout
    rules = pod.run([f"iptables-{other}-save", "-t", "nat"]).stdout
    assert f"-A {rule_set(RedirectOptions(), Family.IPV4).chains[0].hook} -p tcp -j PYMESH_INBOUND" in rules
    assert pod.run([*PYMESH_INIT, "--clean"]).returncode == 0
    assert "PYMESH" not in pod.run([f"iptables-{other}-save", "-t", "nat"]).stdout


@pytest.mark.parametrize("family", Family)
def test_a_second_run_changes_nothing(pod: Pod, variant: str, family: Family) -> None:
    pod.run(PYMESH_INIT)
    once = saved(pod, family)
    pod.run([SAVE[family].replace("-save", ""), "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT"])
    with_another = saved(pod, family)
    assert len(with_another) == len(once) + 1
    pod.run(PYMESH_INIT)
    assert saved(pod, family) == with_another


@pytest.mark.parametrize("family", Family)
def test_another_run_replaces_the_rules_of_the_one_before(pod: Pod, variant: str, family: Family) -> None:
    pod.run([*PYMESH_INIT, "-p", "4140", "-d", "9100", "-i", "10.0.0.0/8,fd00::/8"])
    pod.run(PYMESH_INIT)
    replaced = saved(pod, family)
    pod.run([*PYMESH_INIT, "--clean"])
    pod.run(PYMESH_INIT)
    assert saved(pod, family) == replaced
    assert not any("4140" in line or "9100" in line for line in replaced)


@pytest.mark.parametrize("family", Family)
def test_cleaning_leaves_exactly_what_others_put_there(pod: Pod, variant: str, family: Family) -> None:
    iptables = SAVE[family].replace("-save", "")
    pod.run([iptables, "-t", "nat", "-N", "THEIRS"])
    for rule in ("-A THEIRS -p tcp --dport 53 -j REDIRECT --to-ports 5353", "-A OUTPUT -p tcp -j THEIRS"):
        pod.run([iptables, "-t", "nat", *rule.split()])
    pod.run(
        [iptables, "-t", "nat", "-A", "PREROUTING", "-m", "comment", "--comment", "to PYMESH_INBOUND", "-j", "ACCEPT"]
    )
    before = saved(pod, family)
    pod.run(PYMESH_INIT)
    assert len(saved(pod, family)) > len(before)
    assert pod.run([*PYMESH_INIT, "--clean"]).stdout == "IPv4: rules removed\nIPv6: rules removed\n"
    assert saved(pod, family) == before
    assert not has_inbound_source(pod)
    again = pod.run([*PYMESH_INIT, "--clean"])
    assert again.stdout == "IPv4: no rules of pymesh-init\nIPv6: no rules of pymesh-init\n"
    assert saved(pod, family) == before


def test_the_script_of_a_dry_run_does_the_same(pod: Pod, variant: str) -> None:
    options = ["--inbound-port", "15006", "-x", "10.0.0.0/8"]
    script = pod.run([*PYMESH_INIT, "--dry-run", *options]).stdout
    assert [saved(pod, family) for family in Family] == [[], []]
    pod.run(["sh", "-c", script])
    by_script = [saved(pod, family) for family in Family]
    assert has_inbound_source(pod)
    pod.run(["sh", "-c", pod.run([*PYMESH_INIT, "--dry-run", "--clean"]).stdout])
    assert [saved(pod, family) for family in Family] == [[], []]
    assert not has_inbound_source(pod)
    pod.run([*PYMESH_INIT, *options])
    assert [saved(pod, family) for family in Family] == by_script


def test_an_iptables_without_its_extensions_says_so_in_one_line(pod: Pod, variant: str, tmp_path: Path) -> None:
    libraries = tmp_path / "xtables"
    libraries.mkdir()
    for library in next(Path("/usr/lib").glob("*/xtables")).iterdir():
        if "owner" not in library.name:
            (libraries / library.name).symlink_to(library)
    failed = pod.run(PYMESH_INIT, env={**os.environ, "XTABLES_LIBDIR": str(libraries)}, check=False)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("pymesh-init: this iptables lacks an extension that the rules need")
    assert "`owner'" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert [saved(pod, family) for family in Family] == [[], []]


@pytest.mark.parametrize("family", Family)
def test_a_load_that_fails_half_way_leaves_the_rules_in_force(pod: Pod, variant: str, family: Family) -> None:
    pod.run(PYMESH_INIT)
    before = saved(pod, family)
    text = install_input(rule_set(RedirectOptions(proxy_port=4140), family), "\n".join(before))
    broken = text.replace("COMMIT", "-A PYMESH_OUTPUT -p tcp -j NO_SUCH_CHAIN\nCOMMIT")
    with pod.entered(), pytest.raises(runner.RedirectError, match="tables-restore"):
        runner._restore(family, broken)
    assert saved(pod, family) == before
    with pod.entered():
        runner._restore(family, text)  # it was the broken line, and nothing else
    assert saved(pod, family) != before


def test_without_ipv6_an_earlier_ipv6_redirect_is_removed_and_the_gap_is_told(pod: Pod) -> None:
    pod.run(PYMESH_INIT)
    done = pod.run([*PYMESH_INIT, "--no-ipv6"])
    assert "IPv6: rules removed\n" in done.stdout
    assert "warning: IPv6 is on and not redirected, as asked for: connections over it pass the mesh by\n" in done.stdout
    assert saved(pod, Family.IPV6) == []
    assert not has_inbound_source(pod)
    assert saved(pod, Family.IPV4)


def test_where_ipv6_is_off_there_is_nothing_to_redirect(pod: Pod) -> None:
    pod.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
    done = pod.run(PYMESH_INIT)
    assert "IPv6 is off in this network namespace: there is nothing to redirect\n" in done.stdout
    assert saved(pod, Family.IPV6) == []
    assert saved(pod, Family.IPV4)


@pytest.mark.parametrize("options", [[], ["--clean"]])
def test_without_root_one_line_says_that_root_is_needed(pod: Pod, options: list[str]) -> None:
    failed = pod.run([*PYMESH_INIT, *options], user=1337, check=False)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr == (
        "pymesh-init: root is needed: the redirect changes the nat table of this network namespace "
        "(uid 1337 lacks the capability NET_ADMIN)\n"
    )


def without_programs(pod: Pod, *options: str) -> tuple[int, str]:
    """Run pymesh-init where /usr/sbin, which has iptables, is empty; `ip` stays where it is, in /usr/bin as well."""
    hide = 'for d in /usr/sbin /sbin; do mount -t tmpfs none $d; done; exec "$@"'
    alone = ["unshare", "--mount", "sh", "-c", hide, "sh"]
    failed = pod.run([*alone, *PYMESH_INIT, *options], check=False)
    assert failed.stdout == ""
    return failed.returncode, failed.stderr


def test_without_iptables_the_package_to_install_is_named(pod: Pod) -> None:
    package = "install the package iptables (Debian, Ubuntu, Alpine) or iptables-nft (Fedora)"
    assert without_programs(pod) == (
        1,
        f"pymesh-init: ip6tables-save was not found: {package}, or leave IPv6 alone with --no-ipv6\n",
    )
    assert without_programs(pod, "--no-ipv6") == (1, f"pymesh-init: iptables-save was not found: {package}\n")
    assert without_programs(pod, "--clean")[0] == 1


@pytest.mark.parametrize("path", ["/nowhere", ""])
def test_the_programs_are_found_where_the_path_does_not_lead_and_never_in_the_current_directory(
    pod: Pod, tmp_path: Path, path: str
) -> None:
    for program in PROGRAMS:
        (tmp_path / program).symlink_to("/bin/false")
    pod.run(["env", f"--chdir={tmp_path}", f"PATH={path}", *PYMESH_INIT])
    assert saved(pod, Family.IPV4)


def test_without_ip_its_package_is_named(pod: Pod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "SYSTEM_DIRECTORIES", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    for program in PROGRAMS:
        (tmp_path / program).symlink_to(f"/usr/sbin/{program}")
    with pod.entered(), pytest.raises(runner.RedirectError, match="ip was not found: install the package iproute2"):
        runner.install(RedirectOptions())


@pytest.mark.parametrize(
    ("complaint", "meaning"),
    [
        (
            """iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'

Table does not exist (do you need to insmod?)
""",
            "the kernel has no nat table for this iptables variant",
        ),
        (
            "Warning: Extension owner revision 0 not supported, missing kernel module?\n",
            "the kernel lacks a match or target that the rules need",
        ),
        ("Fatal: can't open lock file /run/xtables.lock: Permission denied\n", "root is needed"),
        (
            "Another app is currently holding the xtables lock. Perhaps you want to use the -w option?\n",
            "another program held the iptables lock for more than 10 s",
        ),
        ("iptables-restore: line 9 failed\n", "iptables-restore failed: iptables-restore: line 9 failed"),
        ("", "iptables-restore failed: it did not say why"),
    ],
)
def test_a_complaint_becomes_one_sentence(complaint: str, meaning: str) -> None:
    sentence = runner.explain("iptables-restore", complaint)
    assert sentence.startswith(meaning)
    assert "\n" not in sentence


def test_an_endless_complaint_is_cut() -> None:
    assert len(runner.explain("iptables-restore", "x" * 10**6)) < 1100
