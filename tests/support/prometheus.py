"""A real Prometheus in the network of a mesh on one machine."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from pymesh_controlplane.local.network import mesh_namespace
from tests.support.mesh import Mesh

Query = Callable[[str], dict[tuple[str, ...], float]]


@contextmanager
def prometheus(mesh: Mesh, directory: Path) -> Iterator[Query]:
    """A Prometheus in the mesh's network that scrapes it by the configuration that `pymesh prometheus` prints."""
    network = ["ip", "netns", "exec", mesh_namespace(mesh.name)]
    file = directory / "prometheus.yml"
    file.write_text(mesh.run("prometheus", "--interval", "1s").stdout)
    command = [
        *network, "prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}",
        "--web.listen-address=127.0.0.1:9090",
    ]  # fmt: skip

    def query(text: str) -> dict[tuple[str, ...], float]:
        """The vector that `text` gives: by the values of its labels, in the order of their names."""
        url = f"http://127.0.0.1:9090/api/v1/query?{urlencode({'query': text})}"
        done = subprocess.run([*network, "curl", "-sf", "-m", "5", url], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"Prometheus does not answer: {done.stderr}")
        result = json.loads(done.stdout)["data"]["result"]
        return {
            tuple(item["metric"][name] for name in sorted(item["metric"])): float(item["value"][1]) for item in result
        }

    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield query
        finally:
            process.terminate()
            process.wait(20)
