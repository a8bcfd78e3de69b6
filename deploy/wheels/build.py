"""Builds the project's two wheels from its one pyproject.toml: `python deploy/wheels/build.py DIRECTORY`.

- `pymesh_proxy-<version>`: everything.
- `pymesh_proxy-<version>+sidecar`: what runs beside every workload. The data plane and what it shares with the control
  plane, the commands `pymesh-proxy` and `pymesh-init`, the base requirements; nothing of the control plane.

The two are one distribution in two editions (a local version label, PEP 440), so that installing either replaces the
other instead of writing over its files.
"""

import copy
import sys
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.wheel import WheelBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).resolve().parents[2]
SIDECAR_PACKAGES = ["pymesh", "proxy/pymesh_proxy"]
# The kinds that people write are read by the control plane alone.
SIDECAR_EXCLUDES = ["pymesh/resources"]


def sidecar_edition(config: dict[str, Any]) -> dict[str, Any]:
    """The content of pyproject.toml for the sidecar's wheel, from that of the whole."""
    config = copy.deepcopy(config)
    project = config["project"]
    project["version"] += "+sidecar"
    project["scripts"] = {
        name: target for name, target in project["scripts"].items() if target.startswith("pymesh_proxy.")
    }
    del project["optional-dependencies"]
    config["tool"]["hatch"]["build"] |= {"packages": SIDECAR_PACKAGES, "exclude": SIDECAR_EXCLUDES}
    del config["tool"]["hatch"]["build"]["targets"]["wheel"]  # the manifests of the whole
    return config


def build(config: dict[str, Any], directory: Path) -> Path:
    """Build one wheel into `directory`."""
    plugins = PluginManager()
    metadata = ProjectMetadata(str(ROOT), plugins, config)
    builder = WheelBuilder(str(ROOT), plugin_manager=plugins, config=config, metadata=metadata)
    [wheel] = builder.build(directory=str(directory), versions=["standard"])
    return Path(wheel)


def main() -> int:
    """Build both and name them."""
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} DIRECTORY", file=sys.stderr)
        return 2
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for edition in (config, sidecar_edition(config)):
        print(build(edition, Path(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
