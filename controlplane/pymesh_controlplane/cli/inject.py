"""`pymesh inject -f FILE`: the manifests in FILE as the mesh would run them, on standard output."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
import yaml

from pymesh.errors import ConfigError, MeshError
from pymesh.resources.documents import documents
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
    sys.stdout.write("---\n".join(text for text in output if text))


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
        ConfigError: a document is not YAML, or a pod cannot be injected; `name` and the field's line are in it.
    """
    parts = []
    for part in documents(text, name):
        if isinstance(part, ConfigError):
            raise part
        parts.append(part)
    namespaces = {
        str(metadata.get("name")): strings(metadata, "labels")
        for part in parts
        if part.value.get("kind") == "Namespace" and (metadata := mapping(dict(part.value), "metadata"))
    }
    result = []
    for part in parts:
        document = dict(part.value)
        try:
            injected = inject_document(
                document, config=config, namespaces=namespaces, namespace=namespace, report=report
            )
        except ConfigError as error:
            position = part.positions.at(error.path)
            raise ConfigError(error.problem, path=error.path, position=position, resource=error.resource) from None
        as_written = part.text.removeprefix("---").lstrip("\r\n")
        result.append(as_written if injected == document else _dump(injected))
    return "---\n".join(text if text.endswith("\n") else f"{text}\n" for text in result)


class _Dumper(yaml.CSafeDumper):
    """Keeps scripts and other texts of several lines readable."""


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _dump(document: Manifest) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False)


def _report(resource: str, decision: Decision) -> None:
    verb = "injected" if decision.inject else "left alone"
    typer.echo(f"{resource}: {verb} ({decision.reason})", err=True)
