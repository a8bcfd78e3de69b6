"""The images that `make images` builds: what is in them, how large they are, and that each command runs as its user.

They run as a container would: the image's own files alone, a root that cannot be written to, the image's user and
environment, a network namespace of their own.
"""

import json
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import Network, Pod
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "build/images"
MAX_SIDECAR_BYTES = 100_000_000  # compressed, as a registry keeps it

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]


@dataclass
class Image:
    """An image's files, unpacked, and what it says of itself."""

    root: Path
    config: dict[str, Any]
    compressed: int

    def command(self, argv: Sequence[str], *, user: str = "") -> list[str]:
        """`argv` in a container of this image, in a mount namespace of its own."""
        script = (
            'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t proc proc "$0/proc" && '
            f'exec chroot --userspec={user or self.config["User"]} "$0" "$@"'
        )
        inside = ["/usr/bin/env", "-i", "-C", self.config.get("WorkingDir") or "/", *self.config["Env"], *argv]
        return ["unshare", "--mount", "sh", "-c", script, str(self.root), *inside]


def load(name: str, into: Path) -> Image:
    """Unpack the archive of the image `name`."""
    assert (IMAGES / f"{name}.tar").exists(), "make images makes what is tested here"
    compressed = 0
    with tarfile.open(IMAGES / f"{name}.tar") as archive:
        manifest = json.loads(_content(archive, "manifest.json"))[0]
        assert [tag.split(":")[0] for tag in manifest["RepoTags"]] == [f"docker.io/library/{name}"]
        for layer in manifest["Layers"]:
            data = _content(archive, layer)
            compressed += len(zlib.compress(data, 1))
            subprocess.run(["tar", "-x", "--numeric-owner", "-C", into], input=data, check=True)
            for gone in into.rglob(".wh.*"):
                hidden = gone.with_name(gone.name.removeprefix(".wh."))
                shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink(missing_ok=True)
                gone.unlink()
        return Image(into, json.loads(_content(archive, manifest["Config"]))["config"], compressed)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place for a GB of files, which are gone afterwards."""
    folder = tmp_path_factory.mktemp("images")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def proxy(folder: Path) -> Image:
    return load("pymesh-proxy", _made(folder / "proxy"))


@pytest.fixture(scope="module")
def controlplane(folder: Path) -> Image:
    return load("pymesh-controlplane", _made(folder / "controlplane"))


@pytest.fixture(scope="module")
def samples(folder: Path) -> Image:
    return load("pymesh-samples", _made(folder / "samples"))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.fixture
def pod() -> Iterator[Pod]:
    with Network() as network:
        yield network.pod("image")


def status_of(pod: Pod, url: str) -> int:
    answer = pod.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url], check=False).stdout
    return int(answer or 0)


def test_the_sidecar_has_nothing_of_the_control_plane_and_is_small(proxy: Image) -> None:
    found = {path.name for path in proxy.root.glob("opt/pymesh/lib/python3*/site-packages/*")}
    assert "pymesh_proxy" in found
    assert not found & {"pymesh_controlplane", "lightkube", "typer", "starlette", "pip"}
    assert sorted(path.name for path in proxy.root.glob("opt/pymesh/bin/pymesh*")) == ["pymesh-init", "pymesh-proxy"]
    assert proxy.config["User"] == "1337:1337"
    assert proxy.compressed < MAX_SIDECAR_BYTES


def test_the_sidecar_serves_as_its_user_on_a_root_that_it_cannot_write(proxy: Image, pod: Pod) -> None:
    process = pod.popen(proxy.command(["pymesh-proxy", "--listen", "15001"]))
    eventually_sync(lambda: status_of(pod, "http://127.0.0.1:15021/healthz/ready") == 200)
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert "\nUid:\t1337\t1337\t1337\t1337\n" in status
    process.terminate()
    assert process.wait(20) == 0


def test_the_init_container_installs_the_redirect(proxy: Image, pod: Pod) -> None:
    install = ["env", "XTABLES_LOCKFILE=/dev/null", "pymesh-init", "-p", "15001", "-u", "1337", "-i", "*", "-b", "*"]
    pod.run(proxy.command(install, user="0:0"))
    assert "--to-ports 15001" in pod.run(["iptables-save", "-t", "nat"]).stdout


def test_the_control_plane_becomes_ready_as_its_user(controlplane: Image, pod: Pod) -> None:
    mounted = _made(controlplane.root / "config")
    (mounted / "service.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n"
    )
    process = pod.popen(
        controlplane.command(["pymesh-controlplane", "--components", "pilot", "--config-dir", "/config"])
    )
    eventually_sync(lambda: status_of(pod, "http://127.0.0.1:15014/ready") == 200)
    assert "\nUid:\t1337\t" in Path(f"/proc/{process.pid}/status").read_text()
    process.terminate()
    assert process.wait(20) == 0


def test_the_operators_command_is_in_the_control_planes_image(controlplane: Image, pod: Pod) -> None:
    assert pod.run(controlplane.command(["pymesh", "--version"])).stdout.startswith("pymesh ")


@pytest.mark.parametrize("app", ["details", "productpage", "ratings", "reviews"])
def test_the_samples_apps_run_as_a_user_that_is_not_the_sidecars(samples: Image, pod: Pod, app: str) -> None:
    process = pod.popen(samples.command(["env", f"SERVICE_NAME={app}", "python3", f"apps/{app}.py", "9080"]))
    eventually_sync(lambda: status_of(pod, "http://127.0.0.1:9080/health") == 200)
    assert "\nUid:\t10001\t" in Path(f"/proc/{process.pid}/status").read_text()
    inside = pod.run(samples.command(["curl", "-s", "http://127.0.0.1:9080/health"]))
    assert inside.returncode == 0


@pytest.mark.parametrize("name", ["proxy", "controlplane", "samples"])
def test_nothing_in_an_image_belongs_to_its_user(request: pytest.FixtureRequest, name: str) -> None:
    image: Image = request.getfixturevalue(name)
    uid = int(image.config["User"].split(":")[0])
    for path in image.root.rglob("*"):
        found = path.lstat()
        assert found.st_uid != uid, path
        assert path.is_symlink() or not path.is_file() or not found.st_mode & 0o002, path
