"""Text → documents: plain values, and the line and column of every field.

The text is YAML (1.1, as Kubernetes reads it) or JSON. It is cut at its `---` lines first, so that a mistake in one
document leaves the others readable. Values are built from the parser's events, not by a recursive composer: nesting
and size are bounded before anything can grow.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import yaml

from pymesh.errors import ConfigError, Position
from pymesh.resources.resource import Positions, child_path

# The deepest field of any kind here is about 12 levels down; PyYAML's C composer overflows the stack at some 10^5.
MAX_DEPTH: Final = 64
# Values in one document after aliases are followed: a large VirtualService has some thousands.
MAX_NODES: Final = 200_000

# Documents in one file: manifests of a thousand workloads have some thousands.
MAX_DOCUMENTS: Final = 10_000

RESOURCE: Final = "a resource is a group of fields (apiVersion, kind, ...)"

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"

_SEPARATOR: Final = re.compile(r"^---(?=\s|$)|^\.\.\.(?=\s|$)", re.MULTILINE)
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE: Final = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})|0x[0-9a-fA-F]{1,16}|0o?[0-7]{1,21}")
_FLOAT: Final = re.compile(
    r"[-+]?(?:[0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40}|[0-9]{1,40}(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?"
)
_TAG: Final = "tag:yaml.org,2002:"
_TAGS: Final = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null"))
# Lines before a `---` that say nothing: blank ones, comments, directives such as `%YAML 1.1`.
_NOTHING: Final = re.compile(r"(?:[ \t]*(?:#[^\n]*|%[^\n]*)?(?:\r?\n|\Z))*")
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file; `text` is its own part of it, comments and a leading `---` included."""

    value: Mapping[str, Value]
    positions: Positions
    text: str


def documents(text: str, file: str, what: str = RESOURCE) -> Iterator[Document | ConfigError]:
    """The documents in `text`, in order; for one that cannot be read, the reason. Empty documents are left out.

    After MAX_DOCUMENTS, empty ones included, comes an error for all the rest. `what` says in errors what a document is.
    """
    count = 0
    for first_line, part in _parts(text):
        if _NOTHING.fullmatch(part):
            continue
        count += 1
        if count > MAX_DOCUMENTS:
            sentence = f"there are more than {MAX_DOCUMENTS} documents; from here on nothing is read: split the file"
            yield ConfigError(sentence, position=Position(file, first_line + 1, 1))
            return
        try:
            document = _Reader(part, file, first_line, what).read()
        except ConfigError as error:
            yield error
        else:
            if document is not None:
                yield document


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """The text between `---` lines, with the number of the line before its first.

    A separator at the start of a line ends a document whatever it stands in (YAML 1.2.2, section 9.1.2). Each part
    keeps its own `---` so that columns stay what they are in the file.
    """
    start, line = 0, 0
    for match in _SEPARATOR.finditer(text):
        part = text[start : match.start()]
        yield line, part
        line += part.count("\n")
        start = match.start() if match[0] == "---" else match.end()
    yield line, text[start:]


class _Reader:
    """Builds one document out of the parser's events."""

    def __init__(self, text: str, file: str, first_line: int, what: str) -> None:
        self._text = text
        self._what = what
        self._file = file
        self._first_line = first_line
        self._marks: dict[str, tuple[int, int]] = {}
        self._blocks: dict[str, tuple[int, int]] = {}
        self._anchors: dict[str, Value] = {}
        self._nodes = 0

    def read(self) -> Document | None:
        """The document, or None if there is nothing but comments.

        Raises:
            ConfigError: it is not YAML, or not a mapping, or too deep or too large.
        """
        # In JSON a tab is white space; YAML's parser does not accept it everywhere.
        text = self._text.replace("\t", " ") if self._text.lstrip()[:1] in {"{", "["} else self._text
        try:
            return self._document(_Events(text))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (self._first_line + mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
            raise ConfigError(_explain(error, text), position=Position(self._file, line, column)) from None
        except yaml.reader.ReaderError as error:
            raise self._forbidden(text, error.position, error.character) from None
        except UnicodeEncodeError as error:
            raise self._forbidden(text, error.start, error.object[error.start]) from None

    def _document(self, events: "_Events") -> Document | None:
        events.take()  # the stream starts
        if events.at(yaml.StreamEndEvent):
            return None
        events.take()  # the document starts
        root = events.peek()
        value = self._value(events, "", 0)
        events.take()  # the document ends
        if not events.at(yaml.StreamEndEvent):
            raise self._error("there is text after the end of the document", events.peek())
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._error(f"{self._what}, not {describe(value)}", root)
        return Document(value, Positions(self._file, self._marks, blocks=self._blocks), self._text)

    def _value(self, events: "_Events", path: str, depth: int) -> Value:
        event = events.take()
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(f"the document holds more than {MAX_NODES} values", event)
        if depth > MAX_DEPTH:
            raise self._error(f"the document is nested deeper than {MAX_DEPTH} levels", event)
        self._marks.setdefault(path, self._place(event))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        value: Value
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
            if event.style == "|":
                self._blocks.setdefault(path, self._block(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._list(events, path, depth)
        else:
            value = self._mapping(events, path, depth)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.anchor:
            self._anchors[event.anchor] = value
        return value

    def _alias(self, event: yaml.AliasEvent) -> Value:
        if event.anchor not in self._anchors:
            raise self._error(f"*{event.anchor} refers to an anchor that is not written before it", event)
        value = self._anchors[event.anchor]
        self._nodes += _size(value)
        if self._nodes > MAX_NODES:
            raise self._error(f"with its aliases the document holds more than {MAX_NODES} values", event)
        return value

    def _list(self, events: "_Events", path: str, depth: int) -> list[Value]:
        items: list[Value] = []
        while not events.at(yaml.SequenceEndEvent):
            items.append(self._value(events, child_path(path, len(items)), depth + 1))
        events.take()
        return items

    def _mapping(self, events: "_Events", path: str, depth: int) -> dict[str, Value]:
        fields: dict[str, Value] = {}
        while not events.at(yaml.MappingEndEvent):
            event = events.take()
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error("the name of a field is a single word, not a list or a group", event)
            name = event.value
            if name == "<<" and event.implicit[0]:
                raise self._error("merge keys (<<) are not supported: write the fields out", event)
            here = child_path(path, name)
            if name in fields:
                first = self._marks[here][0]
                raise self._error(f"'{name}' is given twice, first in line {first}", event, here)
            self._marks[here] = self._place(event)
            fields[name] = self._value(events, here, depth + 1)
        events.take()
        return fields

    def _scalar(self, event: yaml.ScalarEvent) -> Value:
        text: str = event.value
        if event.tag is not None and event.tag != "!":
            if event.tag == f"{_TAG}str":
                return text
            if event.tag not in _TAGS:
                raise self._error(f"the tag {event.tag} means nothing here: remove it", event)
        elif not event.implicit[0]:
            return text
        return plain(text)

    def _block(self, event: yaml.ScalarEvent) -> tuple[int, int]:
        """Where the first character of a literal block stands: in the line after its `|`, after its indentation."""
        header, _ = self._place(event)
        lines = self._text.split("\n")[header - self._first_line :]
        pairs = zip(lines, event.value.split("\n"), strict=False)
        indentation = next((len(line.rstrip("\r")) - len(own) for line, own in pairs if own), 0)
        return header + 1, indentation + 1

    def _forbidden(self, text: str, offset: int, character: str | int) -> ConfigError:
        code = character if isinstance(character, int) else ord(character)
        line = self._first_line + text.count("\n", 0, offset) + 1
        column = offset - (text.rfind("\n", 0, offset) + 1) + 1
        return ConfigError(
            f"malformed YAML: the character U+{code:04X} is not allowed", position=Position(self._file, line, column)
        )

    def _place(self, event: yaml.Event) -> tuple[int, int]:
        mark = event.start_mark
        return (self._first_line + mark.line + 1, mark.column + 1) if mark is not None else (0, 0)

    def _error(self, sentence: str, event: yaml.Event, path: str = "") -> ConfigError:
        return ConfigError(sentence, path=path, position=Position(self._file, *self._place(event)))


class _Events:
    """The parser's events, one after the other, with a look at the next."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)
        self._next: yaml.Event | None = None

    def peek(self) -> yaml.Event:
        if self._next is None:
            self._next = next(self._events)
        return self._next

    def take(self) -> yaml.Event:
        event = self.peek()
        self._next = None
        return event

    def at(self, kind: type[yaml.Event]) -> bool:
        return isinstance(self.peek(), kind)


def plain(text: str) -> str | int | float | bool | None:
    """What an unquoted word means: YAML 1.1's core types, without its dates and base-60 numbers."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.fullmatch(text):
        if text.startswith(("0x", "0o")):
            return int(text, 0)
        return int(text, 8) if text.startswith("0") and text != "0" else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def describe(value: object) -> str:
    """`value` as a person would call it: for sentences such as "... is needed, not the text 'abc'"."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else f"{value[:57]}..."
        return f"the text {shown!r}"
    return "a list" if isinstance(value, list) else "a group of fields"


def _size(value: Value) -> int:
    if isinstance(value, dict):
        return 1 + sum(_size(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(_size(item) for item in value)
    return 1


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    """The parser's complaint in words for people."""
    mark = error.problem_mark
    problem = error.problem or error.context or "it cannot be read"
    if mark is not None:
        lines = text.split("\n")
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "\t" in line[: max(mark.column + 1, len(line) - len(line.lstrip()))]:
            return "malformed YAML: there is a tab in the indentation: use spaces"
    if "mapping values are not allowed" in problem:
        return "malformed YAML: a second ':' in this line, or wrong indentation (quote a value that has ': ' in it)"
    if "found character that cannot start any token" in problem:
        return "malformed YAML: a value cannot start with this character: put it in quotes"
    context = f" {error.context}" if error.context and error.context != problem else ""
    return f"malformed YAML: {problem}{context}; check indentation, quotes and brackets around here"
