"""`pymesh inject -f FILE`: the manifests in FILE as the mesh would run them, on standard output."""

import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml

from pymesh.errors import ConfigError, MeshError, Position
from pymesh_controlplane.injector.containers import DEFAULT_PROXY_IMAGE, InjectionConfig
from pymesh_controlplane.injector.inject import Decision, inject_document
from pymesh_controlplane.injector.shape import Manifest, mapping, strings

# Manifests of a whole system are a few MB; what is larger was not meant for us.
MAX_INPUT_BYTES: Final = 32 * 1024 * 1024


def inject(
    filename: Annotated[
        list[str], typer.Option("-f", "--filename", help="A YAML file with manifests; - is standard input.")
    ],
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Namespace of documents that name none.")
    ] = "default",
    proxy_image: Annotated[str, typer.Option(help="Image of the sidecar and of the redirect.")] = DEFAULT_PROXY_IMAGE,
) -> None:
    """Add the sidecar and the redirect to manifests, and print them. What gets none is printed as it was written.

    Pods are injected unless they, or a Namespace in the same input, say no. What was decided goes to standard error.
    """
    config = InjectionConfig(proxy_image=proxy_image, inject_by_default=True)
    texts = [(name, read_input(name)) for name in filename]
    output = [inject_text(text, name, config=config, namespace=namespace, report=_report) for name, text in texts]
    sys.stdout.write("---\n".join(text if text.endswith("\n") else f"{text}\n" for text in output if text.strip()))


def read_input(name: str) -> str:
    """The text of a file, or of standard input for `-`.

    Raises:
        MeshError: it cannot be read, is not UTF-8, or is larger than MAX_INPUT_BYTES.
    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_INPUT_BYTES + 1)
        if len(data) > MAX_INPUT_BYTES:
            raise MeshError(f"{name}: larger than {MAX_INPUT_BYTES // 2**20} MiB; give the manifests in parts")
        return data.decode()
    except OSError as error:
        raise MeshError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MeshError(f"{name}: not UTF-8 at byte {error.start}") from None


def inject_text(
    text: str,
    name: str,
    *,
    config: InjectionConfig,
    namespace: str = "default",
    report: Callable[[str, Decision], None] | None = None,
) -> str:
    """The YAML stream `text` with its pods injected. Documents that get no sidecar keep their very text.

    Raises:
        ConfigError: a document is not YAML, or a pod cannot be injected; `name` and the document's line are in it.
    """
    documents = _split(text, name)
    namespaces = {
        str(metadata.get("name")): strings(metadata, "labels")
        for _, _, document in documents
        if document.get("kind") == "Namespace" and (metadata := mapping(document, "metadata"))
    }
    result = []
    for source, line, document in documents:
        try:
            injected = inject_document(
                document, config=config, namespaces=namespaces, namespace=namespace, report=report
            )
        except ConfigError as error:
            raise _at(error, name, line) from None
        result.append(source if injected == document else _dump(injected))
    return "---\n".join(result)


def _split(text: str, name: str) -> list[tuple[str, int, Manifest]]:
    """The documents of a stream: source text with comments, line of the first key, value. Empty ones are left out."""
    lines = text.splitlines(keepends=True)
    try:
        places = _places(text)
        values = list(yaml.load_all(text, Loader=_StrictLoader))
    except yaml.YAMLError as error:
        raise _yaml_error(error, name) from None
    except RecursionError:
        raise ConfigError("nested too deeply", position=Position(name)) from None
    starts = [0, *(marker for marker, _ in places[1:]), len(lines)]
    result = []
    for index, (value, (_, content)) in enumerate(zip(values, places, strict=True)):
        if value is None:
            continue
        if not isinstance(value, dict):
            raise ConfigError("a Kubernetes object is a mapping", position=Position(name, content + 1, 1))
        source = "".join(lines[starts[index] : starts[index + 1]])
        result.append((source.removeprefix("---").lstrip("\r\n"), content + 1, value))
    return result


def _places(text: str) -> list[tuple[int, int]]:
    """For each document of a stream the line where it starts (its `---`) and that of its first key, both from 0."""
    places: list[tuple[int, int]] = []
    start = key = None
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line if event.start_mark is not None else 0
        if isinstance(event, yaml.DocumentStartEvent):
            start, key = line, None
        elif isinstance(event, yaml.ScalarEvent) and key is None:
            key = line
        elif isinstance(event, yaml.DocumentEndEvent) and start is not None:
            places.append((start, start if key is None else key))
    return places


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a key that is there twice, where YAML libraries would quietly take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping behind `node`."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag == "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.CSafeDumper):
    """Keeps scripts and other texts of several lines readable."""


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _dump(document: Manifest) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False)


def _at(error: ConfigError, name: str, line: int) -> ConfigError:
    return ConfigError(error.problem, path=error.path, position=Position(name, line, 1), resource=error.resource)


def _yaml_error(error: yaml.YAMLError, name: str) -> ConfigError:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return ConfigError(f"{error.problem}", position=Position(name, mark.line + 1, mark.column + 1))
    return ConfigError(str(error), position=Position(name))


def _report(resource: str, decision: Decision) -> None:
    verb = "injected" if decision.inject else "left alone"
    typer.echo(f"{resource}: {verb} ({decision.reason})", err=True)
