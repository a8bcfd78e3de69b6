"""The Kubernetes source: what a cluster has, and what people apply to it, as it changes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from operator import itemgetter
from typing import Final, NamedTuple

from lightkube import AsyncClient
from lightkube.resources import core_v1

from pymesh import names
from pymesh.errors import Position
from pymesh.resources.istio.gateway import Gateway
from pymesh.resources.parse import Parsed, Refused, observed
from pymesh.resources.resource import Key, Positions, Resource
from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Name, Object
from pymesh_controlplane.kube.watches import Watches
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot.model import Problem, Severity, World
from pymesh_controlplane.pilot.push import Debounce
from pymesh_controlplane.sources import kinds, secrets
from pymesh_controlplane.sources.in_force import InForce
from pymesh_controlplane.sources.ledger import Ledger

# What stands in problems where a directory has the name of a file.
PLACE: Final = "kubernetes"
# A change is looked at once nothing has changed for so long (seconds), or, while it goes on and on, after so long.
QUIET: Final = 0.05
PATIENCE: Final = 0.4
# How often everything is judged without any change (seconds): certificates end all by themselves.
RELOOK: Final = 600.0
# Of what is waited for, this much is said in `/ready`.
MAX_WAITING: Final = 3

STALE: Final = "what was last heard of it stays in force"
WITHOUT: Final = "the servers that need it have no certificate"


class Judgement(NamedTuple):
    """What came out when the objects were judged; also where it was what came out before.

    Attributes:
        generations: of the versions that were judged, by resource as in `Problem.resource`.
        problems: as in the world.
    """

    generations: Mapping[str, int]
    problems: tuple[Problem, ...]


class KubernetesSource:
    """Watches the API server: Kubernetes' own kinds, the mesh's, and the Secrets that Gateways name.

    There is no world before everything was listed once. What is wrong is in `World.problems`; what it said before stays
    in force meanwhile, in this process: the API server keeps no such version. What names something that is not there is
    in force as far as it goes, unless a version before it is. A kind that is not installed has no objects, until it is.

    Args:
        client: of the API server, from `kube.client.connect`.
        with_secrets: whether Secrets are read at all: pilot needs them, policy does not.
        judged: called after every judgement.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        trust_domain: str = names.TRUST_DOMAIN,
        root_namespace: str = names.SYSTEM_NAMESPACE,
        with_secrets: bool = True,
        metrics: Metrics | None = None,
        judged: Callable[[Judgement], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._judged = judged
        self._with_secrets = with_secrets
        self._metrics = metrics
        self._in_force = InForce(Ledger((), trust_domain, root_namespace, incomplete=True))
        self._objects = _Objects()
        self._watches = Watches()
        self._reflectors = [self._reflector(kind, root_namespace) for kind in kinds.ALL]
        self._secrets: dict[tuple[str, str], Reflector] = {}
        self._needed: Mapping[tuple[str, str], Resource[Gateway]] = {}

    def waiting(self) -> str:
        """What it waits for, for `/ready`; empty once everything has been listed."""
        found = [text for reflector in self._reflectors if (text := reflector.waiting())]
        more = f", and {len(found) - MAX_WAITING} more" if len(found) > MAX_WAITING else ""
        return ", ".join(found[:MAX_WAITING]) + more

    async def watch(self) -> AsyncIterator[World]:
        """The world as it is now, and a new one after every change that matters. One consumer, once."""
        news: World | None = None
        told = False
        async with self._watches, aclosing(self._watches.bursts(Debounce(QUIET, PATIENCE), RELOOK)) as bursts:
            for reflector in self._reflectors:
                self._watches.start(reflector)
            async for _ in bursts:
                if self.waiting():
                    continue
                if (world := await self._read()) is not None:
                    news = world
                    await self._ask_for_secrets(world)
                # The first world has the Secrets that it needs: to a proxy that had them they are not to be lost.
                if news is not None and (told or all(map(_answered, self._secrets.values()))):
                    told = True
                    yield news
                    news = None

    async def _read(self) -> World | None:
        """The world, if it is not the one of last time. Parsing and judging are kept off the event loop."""
        reflectors = [*self._reflectors, *self._secrets.values()]
        pictures = {str(reflector): dict(reflector.objects) for reflector in reflectors}
        troubles = (*self._stale(), *self._unread_secrets())
        now = datetime.now(UTC)
        news = await asyncio.to_thread(
            lambda: self._in_force.update({PLACE: self._objects.parsed(pictures)}, now, troubles)
        )
        world = self._in_force.world
        assert world is not None, "there was an update"
        self._judged(Judgement(_generations(pictures), world.problems))
        return news

    def _stale(self) -> Iterator[Problem]:
        for reflector in self._reflectors:
            if reflector.trouble:
                sentence = f"{reflector} are not up to date: {reflector.trouble}"
                yield Problem(Severity.WARNING, sentence, position=Position(PLACE), consequence=STALE)

    # --- Secrets ---------------------------------------------------------------------------------------------------

    async def _ask_for_secrets(self, world: World) -> None:
        """Watch the Secrets that `world` needs, and no others.

        Where there are too many, those that are watched stay: nobody's certificate goes because of others' Gateways.
        """
        refused = self._beyond_the_limit()
        self._needed = secrets.wanted(world) if self._with_secrets else {}
        for place in [place for place in self._secrets if place not in self._needed]:
            await self._watches.stop(self._secrets.pop(place))
            self._watches.changed()  # the next world is without it
        new = [place for place in self._needed if place not in self._secrets]
        for namespace, name in new[: secrets.MAX_SECRETS - len(self._secrets)]:
            reflector = Reflector(
                self._client,
                core_v1.Secret,
                namespace=namespace,
                fields=f"metadata.name={name}",
                trim=trim.secret,
                notify=self._watches.changed,
                metrics=self._metrics,
            )
            self._secrets[namespace, name] = reflector
            self._watches.start(reflector)
        if self._beyond_the_limit() != refused:
            self._watches.changed()  # the next world says so

    def _beyond_the_limit(self) -> dict[tuple[str, str], Key]:
        """The Secrets that are needed and not read, each with the Gateway that is told so."""
        return {place: gateway.key for place, gateway in self._needed.items() if place not in self._secrets}

    def _unread_secrets(self) -> Iterator[Problem]:
        for (namespace, name), gateway in sorted(self._needed.items(), key=itemgetter(0)):
            reflector = self._secrets.get((namespace, name))
            if reflector is None:
                sentence = f"Secret {namespace}/{name} is not read: only {secrets.MAX_SECRETS} Secrets are"
            elif reflector.trouble:
                sentence = f"Secret {namespace}/{name} cannot be read: {reflector.trouble}"
                if reflector.forbidden:
                    sentence = (
                        f"Secret {namespace}/{name} must not be read: bind a Role of namespace {namespace} with the "
                        f"verbs get, list and watch on secrets to the control plane's ServiceAccount"
                    )
            else:
                continue
            error = gateway.error(sentence, "spec.servers")
            yield Problem.of(error, Severity.WARNING, WITHOUT)

    def _reflector(self, kind: kinds.Kind, root_namespace: str) -> Reflector:
        return Reflector(
            self._client,
            kind.resources,
            namespace=root_namespace if kind.system else None,
            fields=kind.fields,
            trim=kind.trim,
            optional=kind.optional,
            notify=self._watches.changed,
            metrics=self._metrics,
        )


def _answered(reflector: Reflector) -> bool:
    return reflector.synced or bool(reflector.trouble)


class _Objects:
    """Objects → resources; what has not changed is not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Name], tuple[Object, Resource[object] | Refused]] = {}

    def parsed(self, pictures: Mapping[str, Mapping[Name, Object]]) -> Parsed:
        """What the objects of all reflectors say."""
        before, self._known = self._known, {}
        for source, objects in pictures.items():
            for name, value in objects.items():
                if not _counts(value):
                    continue
                entry = before.get((source, name))
                if entry is None or entry[0] is not value:
                    entry = (value, observed(value, Positions(PLACE, {})))
                self._known[source, name] = entry
        results = [result for _, result in self._known.values()]
        return Parsed(
            tuple(result for result in results if isinstance(result, Resource)),
            tuple(result for result in results if isinstance(result, Refused)),
        )


def _generations(pictures: Mapping[str, Mapping[Name, Object]]) -> dict[str, int]:
    """The generations of the objects of the mesh's kinds, which count what is written in `spec`."""
    return {
        str(Key(value["kind"], *name)): value["metadata"]["generation"]
        for objects in pictures.values()
        for name, value in objects.items()
        if value["kind"] in kinds.JUDGED and "generation" in value["metadata"]
    }


def _counts(value: Object) -> bool:
    """Whether it is there for others: a pod that has no address yet, or has ended, is not."""
    if value["kind"] != "Pod":
        return True
    status = value["status"]
    return bool(status.get("podIP")) and status.get("phase") not in {"Succeeded", "Failed"}
