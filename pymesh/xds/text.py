"""YAML and JSON text to plain data, strictly, with a way from a field's path back to its line and column.

YAML is read in the core schema of YAML 1.2: `on` and `yes` are strings, `1:30` and `2026-01-01` too. So is `007`, which
that schema takes for a number: a leading zero means one thing to some readers and another to others.
"""

import json
import re
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import yaml

from pymesh.errors import ConfigError, Position

# Configuration is written by hand or by a template; Istio's bootstrap is about 20 kB.
MAX_TEXT_CHARACTERS: Final = 16 * 1024 * 1024
# Nodes after expanding aliases: YAML's "billion laughs" is a small file with very many of them.
MAX_NODES: Final = 1_000_000
# Deeper than any configuration; it also ends an alias that contains itself.
MAX_NESTING: Final = 100

_PATH_STEP: Final = re.compile(r'\["([^"]*)"\]|\[(\d+)\]|([^.\[\]]+)')


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml's loader where it is built
    """Safe loading with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  the base class's own protocol


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


@dataclass(frozen=True, slots=True)
class Document:
    """One document: `data` as dicts, lists and scalars, and where each part of it stands in `file`."""

    data: object
    file: str
    root: yaml.Node | None

    def position(self, path: str) -> Position:
        """Where the field at `path` (as in `a.b[0].c`) stands, or the nearest thing around it."""
        if self.root is None:
            return Position(self.file)
        node, mark = self.root, self.root.start_mark
        for quoted, index, name in _PATH_STEP.findall(path):
            if isinstance(node, yaml.SequenceNode) and index and int(index) < len(node.value):
                node = node.value[int(index)]
                mark = node.start_mark
                continue
            entry = _entry(node, quoted or name)
            if entry is None:
                break
            mark, node = entry[0].start_mark, entry[1]
        return _position(self.file, mark)

    def located(self, error: ConfigError) -> ConfigError:
        """`error` with the position that its path has in this document."""
        return error.placed(self.position(error.path))


def parse(text: str, file: str) -> Document:
    """The one YAML or JSON document in `text`: JSON if the file's name says so, or if it is JSON.

    Raises:
        ConfigError: it is malformed or too large, a key is given twice, or it holds what JSON could not.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ConfigError(f"more than {MAX_TEXT_CHARACTERS} characters", position=Position(file))
    try:
        if file.endswith(".json") or _is_json(text):
            return _parse_json(text, file)
        return _parse_yaml(text, file)
    except RecursionError:
        raise ConfigError(f"nested more than {MAX_NESTING} levels deep", position=Position(file)) from None


def camel_case(name: str) -> str:
    """`virtual_hosts` as protobuf's JSON also writes it: `virtualHosts`."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _parse_yaml(text: str, file: str) -> Document:
    loader = _Loader(text)
    try:
        _check_nesting(text, file)
        root = loader.get_single_node()
        if root is None:
            raise ConfigError("the file is empty", position=Position(file))
        _check_nodes(root, file)
        data = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"not YAML: {problem}", position=_position(file, error.problem_mark)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"not YAML: {error}", position=Position(file)) from error
    finally:
        loader.dispose()
    return Document(data, file, root)


def _parse_json(text: str, file: str) -> Document:
    try:
        data = json.loads(text.lstrip("\ufeff"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error.msg}", position=Position(file, error.lineno, error.colno)) from error
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}", position=Position(file)) from error
    # JSON is YAML, but for tabs: in valid JSON these are only ever white space, so columns stay right.
    text = text.replace("\t", " ")
    loader = _Loader(text)
    try:
        _check_nesting(text, file)
        root = loader.get_single_node()
        if root is not None:
            _check_nodes(root, file)
    except yaml.YAMLError:
        root = None  # a corner where YAML and JSON differ (as in "\/"): the file is good, only its positions are lost
    finally:
        loader.dispose()
    return Document(data, file, root)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _check_nesting(text: str, file: str) -> None:
    """Refuse what is nested too deep before nodes are composed: libyaml's composer recurses in C and would crash."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_NESTING:
                position = _position(file, event.start_mark)
                raise ConfigError(f"nested more than {MAX_NESTING} levels deep", position=position)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_nodes(root: yaml.Node, file: str) -> None:
    """Refuse duplicate keys, keys that are not scalars, foreign tags, and documents that are too large or too deep."""
    left = MAX_NODES
    pending: list[tuple[yaml.Node, int]] = [(root, 1)]
    while pending:
        node, depth = pending.pop()
        left -= 1
        if left < 0:
            raise ConfigError(f"more than {MAX_NODES} values", position=Position(file))
        if depth > MAX_NESTING:
            raise ConfigError(f"nested more than {MAX_NESTING} levels deep", position=_position(file, node.start_mark))
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, file)
            pending.extend((value, depth + 1) for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            pending.extend((value, depth + 1) for value in node.value)
        elif node.tag.rpartition(":")[2] not in {"str", "null", "bool", "int", "float"}:
            raise ConfigError(f"the tag {node.tag} is not supported", position=_position(file, node.start_mark))


def _check_keys(node: yaml.MappingNode, file: str) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError("a key must be a single word or string", position=_position(file, key.start_mark))
        if key.value in seen:
            raise ConfigError(f"the key {key.value!r} is given twice", position=_position(file, key.start_mark))
        seen.add(key.value)


def _entry(node: yaml.Node, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Key and value of the field `name` in a mapping, whichever of its two spellings it has."""
    if not isinstance(node, yaml.MappingNode):
        return None
    names = {name, camel_case(name)}
    return next(((key, value) for key, value in node.value if key.value in names), None)


class _Mark(Protocol):
    """A place as libyaml or PyYAML has it, counted from 0."""

    line: int
    column: int


def _position(file: str, mark: _Mark | None) -> Position:
    return Position(file) if mark is None else Position(file, mark.line + 1, mark.column + 1)
