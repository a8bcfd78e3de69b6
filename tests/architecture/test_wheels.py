"""The two wheels: what is in them, and that the sidecar's lives on the base requirements alone."""

import email
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.repository import PACKAGES, ROOT, module_name, tracked

# Runs with `-I -S`: nothing is importable but the standard library, one directory, and the modules named on the way in.
ISOLATED = """
import importlib, importlib.abc, pkgutil, sys
target, site, allowed = sys.argv[1], sys.argv[2], set(sys.argv[3].split(","))
class OnlyBase(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, module=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"{name} does not belong to the base requirements", name=name)
sys.meta_path.insert(0, OnlyBase())
sys.path[:0] = [target, site]
"""
IMPORT_EVERYTHING = """
import pymesh, pymesh_proxy
seen = []
for package in (pymesh, pymesh_proxy):
    assert package.__path__[0].startswith(target), package.__path__
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        seen.append(module.name)
print(*seen)
"""
HELP = """
sys.argv = [sys.argv[4], "--help"]
module = {"pymesh-proxy": "pymesh_proxy.__main__", "pymesh-init": "pymesh_proxy.redirect.__main__"}[sys.argv[0]]
sys.exit(importlib.import_module(module).main())
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("wheels")
    subprocess.run(
        [sys.executable, "deploy/wheels/build.py", str(directory)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    [sidecar] = directory.glob("*+sidecar-*.whl")
    [full] = set(directory.glob("*.whl")) - {sidecar}
    return {"full": full, "sidecar": sidecar}


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index",
         "--target", str(target), str(wheels["sidecar"])],
        check=True, timeout=60,
    )  # fmt: skip
    return target


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata(wheel: Path, file: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(f".dist-info/{file}")]
        return archive.read(name).decode()


def base_modules() -> set[str]:
    """Top-level modules of the distributions that requirements/base.txt pins."""
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/base.txt").read_text(), re.MULTILINE))
    assert {"uvloop", "hpack", "xds-protos"} <= pinned
    # xds-protos asks for grpcio; the sidecar has its own gRPC and must not pay 20 MB for a second one.
    pinned.discard("grpcio")
    owners = importlib.metadata.packages_distributions()
    return {
        module for module, dists in owners.items()
        if pinned & {re.sub(r"[-_.]+", "-", dist).lower() for dist in dists}
    }  # fmt: skip


def isolated(target: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    allowed = ",".join(sorted(base_modules() | {"pymesh", "pymesh_proxy"}))
    site = sysconfig.get_path("purelib")
    command = [sys.executable, "-I", "-S", "-c", ISOLATED + code, str(target), site, allowed, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_whole_wheel_has_every_file_of_the_packages(wheels: dict[str, Path]) -> None:
    tree = {str(file.relative_to(package.parent)) for package in PACKAGES for file in tracked(package)}
    assert {f"{package.name}/py.typed" for package in PACKAGES} <= tree
    home = ROOT / "deploy/kubernetes"
    manifests = {f"pymesh_controlplane/manifests/{file.relative_to(home)}" for file in tracked(home)}
    assert "pymesh_controlplane/manifests/base/controlplane.yaml" in manifests
    assert contents(wheels["full"]) == tree | manifests


def test_the_sidecars_wheel_has_nothing_of_the_control_plane(wheels: dict[str, Path]) -> None:
    found = contents(wheels["sidecar"])
    assert {name.partition("/")[0] for name in found} == {"pymesh", "pymesh_proxy"}
    assert found == {
        name for name in contents(wheels["full"])
        if not name.startswith(("pymesh_controlplane/", "pymesh/resources/"))
    }  # fmt: skip


def test_the_sidecars_wheel_asks_for_the_base_requirements_and_offers_two_commands(wheels: dict[str, Path]) -> None:
    full, sidecar = (email.message_from_string(metadata(wheels[kind], "METADATA")) for kind in ("full", "sidecar"))
    base = [requirement for requirement in full.get_all("Requires-Dist") or [] if "extra ==" not in requirement]
    assert sidecar.get_all("Requires-Dist") == base
    assert len(base) >= 5
    assert sidecar.get_all("Provides-Extra") is None
    assert sidecar["Name"] == full["Name"]
    assert sidecar["Version"] == f"{full['Version']}+sidecar"
    commands = re.findall(r"^([\w-]+) = ", metadata(wheels["sidecar"], "entry_points.txt"), re.MULTILINE)
    assert sorted(commands) == ["pymesh-init", "pymesh-proxy"]


def test_the_sidecar_imports_without_control_plane_and_beyond_its_requirements_nothing(installed: Path) -> None:
    done = isolated(installed, IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
    tree = {module_name(file) for package in PACKAGES[:2] for file in package.rglob("*.py")}
    left_out = {name for name in tree if name.startswith("pymesh.resources")} | {"pymesh", "pymesh_proxy"}
    assert set(done.stdout.split()) == tree - left_out


def test_the_isolation_of_these_tests_does_isolate(installed: Path) -> None:
    for module in ("grpc", "msgspec", "pymesh_controlplane"):
        done = isolated(installed, f"import {module}")
        assert done.returncode == 1
        assert f"{module} does not belong" in done.stderr


@pytest.mark.parametrize("command", ["pymesh-proxy", "pymesh-init"])
def test_the_installed_commands_explain_themselves(installed: Path, command: str) -> None:
    assert (installed / "bin" / command).is_file()
    done = isolated(installed, HELP, command)
    assert done.returncode == 0, done.stderr
    assert f"usage: {command}" in done.stdout
