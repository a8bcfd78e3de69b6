"""The file system of a container: what is shown, what is hidden, and where there is room for more."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymesh_controlplane.local.launch import Launch
from pymesh_controlplane.local.processes import StartError, run
from pymesh_controlplane.local.rootfs import Bind, Directory, File, Link, Mount, Node, plan
from tests.support.netns import Network


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A small machine: bin → usr/bin, etc, tmp, run, dev/shm, var/run → /run, a closed home."""
    for path in ("usr/bin", "etc/ssl", "tmp", "run", "dev/shm", "var", "home/closed/env/bin", "home/closed/secret"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (tmp_path / "home/closed").chmod(0o700)
    return tmp_path


def at(tree: Directory, path: str) -> Node | None:
    node: Node | None = tree
    for name in path.strip("/").split("/"):
        if not isinstance(node, Directory):
            return None
        node = node.entries.get(name)
    return node


def test_the_machine_is_shown_as_it_is(host: Path) -> None:
    tree = plan([], [], str(host)).tree
    assert at(tree, "usr") == Bind(f"{host}/usr")
    assert at(tree, "bin") == Link("usr/bin")


def test_a_mount_on_what_the_machine_has_changes_nothing_else(host: Path) -> None:
    result = plan([], [Mount(f"{host}/etc/ssl", "/etc/resolv.conf")], str(host))
    assert at(result.tree, "etc") == Bind(f"{host}/etc")
    assert result.mounts == (Mount(f"{host}/etc/ssl", "/etc/resolv.conf"),)


def test_a_mount_on_what_the_machine_lacks_opens_the_nearest_directory(host: Path) -> None:
    tree = plan([], [Mount(f"{host}/etc/ssl", "/etc/pymesh/pod")], str(host)).tree
    assert at(tree, "etc/resolv.conf") == Bind(f"{host}/etc/resolv.conf")
    assert at(tree, "etc/ssl") == Bind(f"{host}/etc/ssl")
    assert at(tree, "etc/pymesh/pod") == Directory()
    assert at(plan([], [Mount(f"{host}/etc/resolv.conf", "/data/file")], str(host)).tree, "data/file") == File()


def test_mounts_follow_the_machines_links(host: Path) -> None:
    result = plan([], [Mount(f"{host}/etc/ssl", "/var/run/secrets/tokens"), Mount(f"{host}/usr", "/bin/x")], str(host))
    assert {mount.target for mount in result.mounts} == {"/run/secrets/tokens", "/usr/bin/x"}


def test_inner_mounts_come_after_outer_ones(host: Path) -> None:
    mounts = [Mount(f"{host}/usr", "/data/a/b"), Mount(f"{host}/etc", "/data")]
    assert [mount.target for mount in plan([], mounts, str(host)).mounts] == ["/data", "/data/a/b"]


def test_a_link_that_leads_in_circles_is_refused(host: Path) -> None:
    (host / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        plan([], [Mount(f"{host}/usr", "/loop/x")], str(host))


def test_below_a_closed_directory_only_what_is_needed_is_shown(host: Path) -> None:
    tree = plan(["/home/closed/env"], [], str(host)).tree
    assert at(tree, "home/closed/env") == Bind(f"{host}/home/closed/env")
    assert at(tree, "home/closed/secret") is None
    assert at(plan(["/usr/bin"], [], str(host)).tree, "home") == Bind(f"{host}/home")


def test_two_needs_below_one_closed_directory_are_both_met(host: Path) -> None:
    (host / "home/closed/other").mkdir()
    for needs in (["/home/closed/env", "/home/closed/other"], ["/home/closed/other", "/home/closed/env"]):
        tree = plan(needs, [], str(host)).tree
        assert at(tree, "home/closed/env") == Bind(f"{host}/home/closed/env")
        assert at(tree, "home/closed/other") == Bind(f"{host}/home/closed/other")


def test_a_need_inside_another_need_adds_nothing(host: Path) -> None:
    tree = plan(["/home/closed/env/bin", "/home/closed/env"], [], str(host)).tree
    assert at(tree, "home/closed/env") == Bind(f"{host}/home/closed/env")


def test_a_closed_directory_that_is_needed_itself_is_opened(host: Path) -> None:
    tree = plan(["/home/closed"], [], str(host)).tree
    closed = at(tree, "home/closed")
    assert isinstance(closed, Directory)
    assert set(closed.entries) == {"env", "secret"}


def test_a_link_below_a_closed_directory_is_kept_with_what_it_leads_to(host: Path) -> None:
    (host / "home/closed/current").symlink_to("env")
    tree = plan(["/home/closed/current/bin"], [], str(host)).tree
    assert at(tree, "home/closed/current") == Link("env")
    assert at(tree, "home/closed/env/bin") == Bind(f"{host}/home/closed/env/bin")


def test_what_is_needed_below_a_private_directory_is_mounted_there(host: Path) -> None:
    (host / "tmp/manifests").mkdir()
    directory = host / "tmp/manifests"
    assert plan(["/tmp/manifests"], [], str(host)).mounts == (Mount(str(directory), "/tmp/manifests", True),)
    (directory / "app.py").touch()
    (directory / "gone").symlink_to("nowhere")
    directory.chmod(0o700)
    shown = Mount(f"{directory}/app.py", "/tmp/manifests/app.py", True)
    assert plan(["/tmp/manifests"], [], str(host)).mounts == (shown,)


def test_a_need_that_does_not_exist_is_an_error(host: Path) -> None:
    with pytest.raises(FileNotFoundError):
        plan(["/nowhere"], [], str(host))


# --- the same, built by the kernel


@pytest.fixture
def closed_home() -> Iterator[Path]:
    """A directory like /root, outside /tmp: 0700, with a program that the container needs and one that it does not."""
    home = Path(f"/var/lib/pymesh-test-{os.getpid()}")
    for name in ("env", "other"):
        (home / name / "bin").mkdir(parents=True)
        program = home / name / "bin/program"
        program.write_text("#!/bin/sh\nid -u\n")
        program.chmod(0o755)
    home.chmod(0o700)
    yield home
    import shutil

    shutil.rmtree(home)


def launch(net: Network, tmp_path: Path, *argv: str, uid: int = 1337, **more: object) -> Launch:
    pod = net.pod(f"c{len(list(tmp_path.iterdir()))}")
    staging = tmp_path / f"root{pod.name}"
    staging.mkdir()
    arguments = {"env": {"PATH": "/usr/bin:/bin:/usr/sbin"}, "cwd": "/", "hostname": "pod", **more}
    return Launch(argv=argv, uid=uid, gid=uid, netns=f"/run/netns/{pod.name}", staging=str(staging), **arguments)  # type: ignore[arg-type]  # a test's shorthand


@pytest.mark.netns
def test_a_container_runs_what_lies_below_a_closed_directory_and_sees_nothing_else_of_it(
    closed_home: Path, tmp_path: Path
) -> None:
    needed = str(closed_home / "env")
    with Network() as net:
        done = run(launch(net, tmp_path, f"{needed}/bin/program", required=[needed]))
        assert (done.returncode, done.stdout) == (0, b"1337\n")
        done = run(launch(net, tmp_path, "ls", str(closed_home), required=[needed]))
        assert done.stdout.split() == [b"env"]
        with pytest.raises(StartError, match="Permission denied"):
            run(launch(net, tmp_path, f"{needed}/bin/program"))


@pytest.mark.netns
def test_a_closed_interpreter_runs_as_the_sidecars_user(tmp_path: Path) -> None:
    """The interpreter of a pyenv in a closed home is such a case; where there is none, the suite's own does."""
    candidates = sorted((Path.home() / ".pyenv" / "versions").glob("3.1[1-9]*/bin/python3"))
    python = candidates[0] if candidates else Path(sys.executable)
    required = [str(python.parents[1]), os.path.realpath(python), sys.base_prefix]
    with Network() as net:
        done = run(launch(net, tmp_path, str(python), "-c", "import ssl, os; print(os.getuid())", required=required))
    assert (done.stdout, done.stderr) == (b"1337\n", b"")


@pytest.mark.netns
def test_a_container_writes_only_where_it_may(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o777)
    volume.chmod(0o777)
    mounts = [Mount(str(volume), "/data/rw"), Mount(str(volume), "/etc/pymesh/ro", read_only=True)]
    script = (
        "touch /data/rw/yes /tmp/yes /dev/shm/yes && hostname && ls /etc/pymesh/ro && "
        "for path in /usr/no /etc/no /etc/pymesh/ro/no /data/no /proc/sys/kernel/hostname; "
        "do touch $path && echo $path; done"
    )
    with Network() as net:
        done = run(launch(net, tmp_path, "sh", "-c", script, uid=0, mounts=mounts))
    assert done.stdout.split() == [b"pod", b"yes"], done.stderr
    assert [path.name for path in volume.iterdir()] == ["yes"]
    assert not Path("/data").exists()
    assert not Path("/etc/pymesh").exists()


@pytest.mark.netns
def test_device_files_work_in_dev_only(tmp_path: Path) -> None:
    """Whoever could open one of a volume's would have the machine's disks."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.mknod(volume / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    mounts = [Mount(str(volume), "/data"), Mount(str(volume), "/ro", read_only=True), Mount("/dev", "/mydev")]
    script = "for path in /data /ro /mydev /dev; do head -c1 $path/zero >/dev/null && echo $path; done"
    with Network() as net:
        done = run(launch(net, tmp_path, "sh", "-c", script, uid=0, mounts=mounts))
    assert done.stdout.split() == [b"/mydev", b"/dev"], done.stderr


@pytest.mark.netns
def test_a_container_has_only_the_capabilities_it_was_given(tmp_path: Path) -> None:
    with Network() as net:
        script = "grep CapBnd /proc/self/status; grep NoNewPrivs /proc/self/status; id -G"
        done = run(launch(net, tmp_path, "sh", "-c", script, uid=0, capabilities=("NET_ADMIN",)))
        assert done.stdout.split() == [b"CapBnd:", b"%016x" % (1 << 12), b"NoNewPrivs:", b"1", b"0"]


@pytest.mark.netns
def test_a_command_that_is_not_there_or_not_a_program_is_told(tmp_path: Path) -> None:
    with Network() as net:
        with pytest.raises(StartError, match=r"^no-such-command is not in the container; PATH is /usr/bin:/bin:"):
            run(launch(net, tmp_path, "no-such-command"))
        with pytest.raises(StartError, match=r"^/etc/passwd cannot be executed by user 1337: Permission denied$"):
            run(launch(net, tmp_path, "/etc/passwd"))
        script = tmp_path / "script"
        script.write_text("#!/no/such/interpreter\n")
        script.chmod(0o755)
        mounts = [Mount(str(script), "/data/script")]
        with pytest.raises(StartError, match=r"^/data/script is in the container, but not the interpreter"):
            run(launch(net, tmp_path, "/data/script", mounts=mounts))
        with pytest.raises(StartError, match="No such file"):
            run(launch(net, tmp_path, "true", cwd="/nowhere"))
