"""What holds for every file: short modules that say what they are, a true map, nothing of anybody's machine."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.repository import PACKAGES, ROOT, tracked

SOURCES = [file for file in tracked() if file.suffix == ".py"]
PRODUCT = [file for file in SOURCES if any(file.is_relative_to(package) for package in PACKAGES)]

MAX_LINES = 400
# Longer modules, each with the reason why it is not two.
LONGER = {
    "proxy/pymesh_proxy/exchange.py": "the life of one request, every phase once, in order",
    "proxy/pymesh_proxy/transport/tls_stream.py": "a protocol below and a transport above, of one TLS machine",
    "pymesh/xds/support.py": "one table: the supported fields",
}

# Pieces are joined so that this file does not find itself.
MACHINE_PATHS = re.compile(rf"{re.escape(str(ROOT))}(?![\w.-])|/wo" + r"rk/\w|/Us" + r"ers/\w")
INDEX_ADDRESSES = re.compile(
    "|".join(("files.python" + "hosted", r"://[^\s\"']+/sim" + "ple", "--(extra-)?index-" + "url"))
)
SUPPRESSION = re.compile(r"#\s*(?:noqa|type: ignore)(?P<codes>[:\[][^\n]*)?")
REASONED = re.compile(r"(?::\s*[A-Z]+[0-9]+(?:,\s*[A-Z]+[0-9]+)*|\[[a-z-]+(?:,\s*[a-z-]+)*\])\W+\w+")


def names(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def test_every_module_says_what_it_is() -> None:
    silent = [
        file for file in SOURCES if file.read_text().strip() and not ast.get_docstring(ast.parse(file.read_text()))
    ]
    assert names(silent) == []


def test_modules_are_short_or_have_a_reason() -> None:
    long = {str(file.relative_to(ROOT)) for file in PRODUCT if file.read_text().count("\n") > MAX_LINES}
    assert long == LONGER.keys()


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, INDEX_ADDRESSES], ids=["machine paths", "index addresses"])
def test_nothing_names_a_machine_or_a_package_index(pattern: re.Pattern[str]) -> None:
    found = []
    for file in tracked():
        text = file.read_bytes().decode(errors="ignore")
        found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


def test_every_suppression_has_codes_and_a_reason_beside_or_above_it() -> None:
    bare = []
    for file in PRODUCT:
        above = ""
        for number, line in enumerate(file.read_text().splitlines(), 1):
            match = SUPPRESSION.search(line)
            if match and not REASONED.match(match["codes"] or "") and not (match["codes"] and above.startswith("#")):
                bare.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
            above = line.strip()
    assert bare == []


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    assert names([file for file in SOURCES if marks.search(file.read_text())]) == []


def test_the_map_names_every_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = [path.parent for package in PACKAGES for path in package.rglob("__init__.py")]
    missing = [str(path.relative_to(ROOT)) for path in packages if not re.search(rf"(?<![\w-]){path.name}/", text)]
    assert missing == []


def on_the_map() -> list[tuple[Path, str]]:
    """Each entry of the map and the directory that it is in, by its indentation: a file, a module or a directory."""
    [block] = re.findall(r"## The map\n+```\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    roots = {f"{package.relative_to(ROOT)}/": package for package in PACKAGES}
    found, base = [], ROOT
    for line in block.splitlines():
        words, _, _ = line.strip().partition("   ")
        indentation = len(line) - len(line.lstrip())
        if indentation == 0:
            base = roots.get(words, ROOT)
            found.append((ROOT, words))
        elif indentation == 2:  # farther in, the text of the line before goes on
            found += [(base, name) for name in words.split()]
    return found


def test_the_map_names_nothing_that_is_not_there() -> None:
    missing = [
        str(base.relative_to(ROOT) / name)
        for base, name in on_the_map()
        if not (base / name).exists() and not (base / f"{name}.py").exists()
    ]
    assert missing == []


def test_the_map_names_every_module_that_is_in_no_package_of_its_own() -> None:
    named = {base / name.removesuffix(".py") for base, name in on_the_map()}
    modules = [file.with_suffix("") for file in PRODUCT if file.parent in PACKAGES]
    assert names([file for file in modules if file.name != "__init__" and file not in named]) == []
