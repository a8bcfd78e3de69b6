"""`pymesh inject -f FILE`: the manifests in FILE as the mesh would run them, on standard output."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import typer
import yaml

from pymesh.errors import ConfigError
from pymesh.resources.documents import Document, documents
from pymesh_controlplane.cli import completion, manifests, target
from pymesh_controlplane.injector.containers import DEFAULT_PROXY_IMAGE, InjectionConfig
from pymesh_controlplane.injector.inject import Decision, inject_document
from pymesh_controlplane.injector.shape import Manifest, mapping, strings
from pymesh_controlplane.local.texts import Text


def inject(
    filename: Annotated[
        list[str], typer.Option("-f", "--filename", help="A file or directory of manifests; - is standard input.")
    ],
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Namespace of documents that name none.")
    ] = "default",
    proxy_image: Annotated[
        str, typer.Option(help=f"Image of the sidecar and of the redirect, instead of {DEFAULT_PROXY_IMAGE}.")
    ] = "",
    context: Annotated[
        str,
        typer.Option(
            help="With the settings of the mesh in this cluster, instead of the defaults.",
            autocompletion=completion.contexts,
        ),
    ] = "",
    kubeconfig: Annotated[str, typer.Option(help="Likewise, in the cluster that this file leads to.")] = "",
) -> None:
    """Add the sidecar and the redirect to manifests, and print them. What gets none is printed as it was written.

    No mesh is asked, unless a cluster is named. Pods are injected unless they, or a Namespace in the same input or in
    that cluster, say no. What was decided goes to standard error.
    """
    config, namespaces = _of_cluster(context, kubeconfig) if context or kubeconfig else (InjectionConfig(), {})
    config = replace(config, inject_by_default=True, proxy_image=proxy_image or config.proxy_image)
    texts = manifests.read(filename)
    output = inject_texts(texts, config=config, namespace=namespace, namespaces=namespaces, report=_report)
    sys.stdout.write("---\n".join(output))


def _of_cluster(context: str, kubeconfig: str) -> tuple[InjectionConfig, dict[str, dict[str, str]]]:
    # Here and not above: it takes half a second to load, and without a cluster nobody needs it.
    from pymesh_controlplane.cli import injection
    from pymesh_controlplane.kube.api import Api
    from pymesh_controlplane.kube.kubeconfig import load
    from pymesh_controlplane.kube.paths import Paths

    with Api(load(target.kubeconfigs(kubeconfig, os.environ), context)) as api:
        paths = Paths(api)
        return injection.of_cluster(api, paths), injection.namespaces(api, paths)


def inject_texts(
    texts: Sequence[Text],
    *,
    config: InjectionConfig,
    namespace: str = "default",
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
    report: Callable[[str, Decision], None] | None = None,
) -> list[str]:
    """The documents in `texts`, with their pods injected. One that gets no sidecar keeps its very text.

    Args:
        namespaces: labels of namespaces that there are; those in `texts` take their place.

    Raises:
        ConfigError: a document is not YAML, or a pod cannot be injected; the file and the field's line are in it.
    """
    parts = [part for text in texts for part in _read(text)]
    known = dict(namespaces or {}) | {
        str(metadata.get("name")): strings(metadata, "labels")
        for part in parts
        if part.value.get("kind") == "Namespace" and (metadata := mapping(dict(part.value), "metadata"))
    }
    result = []
    for part in parts:
        document = dict(part.value)
        try:
            injected = inject_document(document, config=config, namespaces=known, namespace=namespace, report=report)
        except ConfigError as error:
            raise error.placed(part.positions.at(error.path)) from None
        text = part.text.removeprefix("---").lstrip("\r\n") if injected == document else _dump(injected)
        result.append(text if text.endswith("\n") else f"{text}\n")
    return result


def _read(text: Text) -> Iterator[Document]:
    for part in documents(text.text, text.name):
        if isinstance(part, ConfigError):
            raise part
        yield part


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
