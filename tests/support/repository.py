"""The repository as tests look at it: what is tracked, and which modules there are."""

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
# The packages, each below the directory that is on the path.
PACKAGES: Final = (ROOT / "pymesh", ROOT / "proxy/pymesh_proxy", ROOT / "controlplane/pymesh_controlplane")


def tracked(below: Path = ROOT) -> list[Path]:
    """Every file below a directory that git knows of, or would with the next `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", str(below)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def module_name(file: Path) -> str:
    """`proxy/pymesh_proxy/codec/http1.py` → `pymesh_proxy.codec.http1`."""
    [package] = [package for package in PACKAGES if file.is_relative_to(package)]
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
