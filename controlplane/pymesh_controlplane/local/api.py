"""The supervisor's HTTP API, over a Unix socket that only root can reach.

Objects are Kubernetes objects; the paths are of our own, since one verb here often means many objects. An answer that
is not a success has `{"error": "…"}`, and `errors` where there are several.

    GET  /readyz      {"ready": bool, "waiting": [sentence, …]}
    GET  /pods        {"items": [row of `pymesh ps`, …]}
    GET  /objects     {"items": [object, …]}
    GET  /syncz       what pilot says of its proxies
    GET  /ca          what citadel says of the certificate authority; POST /ca/<step> rotates its root
    GET  /configz     what pilot has in force, and its problems: what was refused, what looks wrong
    GET  /telemetry/{requests,graph,stats}?…
                      what the collector says (`telemetry/pages.py`); 404 where the mesh runs without one
    GET  /pods/{namespace}/{pod}/containers/{container}
                      a Launch that joins the container
    POST /apply       {"namespace", "texts": [{"name", "directory", "text"}, …], "expected": [[key, object], …]}
                      412 if one of the expected is something else by now (null: not there); nothing is applied then
                      → {"results": [[key, outcome], …], "warnings": [sentence, …]}
    POST /validate    as /apply → {"problems": [problem, …]}, as /configz has them; nothing is changed
    POST /delete      {"keys": [[kind, namespace, name], …], "force": bool, "expected": as above}
                      without force, what others name is kept
                      → {"results": [[key, outcome], …]}
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pymesh import names
from pymesh.errors import MeshError
from pymesh.resources.resource import Key
from pymesh_controlplane.local.store import ChangedError, RefusedError
from pymesh_controlplane.local.supervisor import AbsentError, Supervisor
from pymesh_controlplane.local.system import CONFIG_MOUNT
from pymesh_controlplane.local.texts import MAX_APPLY, Text

# Seconds that requests under way have to end when the supervisor does.
GRACE = 2
# The collector's pod, and what it may be asked for.
TELEMETRY: Final = "telemetry"
TELEMETRY_PAGES: Final = ("requests", "graph", "stats")


def application(supervisor: Supervisor) -> Starlette:
    """The API of `supervisor`."""

    async def readyz(_: Request) -> Response:
        waiting = supervisor.waiting()
        if not waiting:
            try:
                waiting = await supervisor.unsettled()
            except MeshError as error:
                waiting = [str(error)]
        return JSONResponse({"ready": not waiting, "waiting": waiting})

    async def pods(_: Request) -> Response:
        return JSONResponse({"items": supervisor.rows()})

    async def objects(_: Request) -> Response:
        return JSONResponse({"items": supervisor.objects()})

    async def container(request: Request) -> Response:
        names = request.path_params
        pod = supervisor.pod(names["namespace"], names["pod"])
        runners = (*pod.containers, *pod.init_containers) if pod else ()
        launch = next((runner.running_launch for runner in runners if runner.spec.name == names["container"]), None)
        if launch is None:
            raise MeshError(f"container {names['container']} of {names['namespace']}/{names['pod']} does not run")
        return Response(launch.to_json(), media_type="application/json")

    routes = [
        Route("/readyz", readyz),
        Route("/pods", pods),
        Route("/objects", objects),
        Route("/pods/{namespace}/{pod}/containers/{container}", container),
        *_asked_of_others(supervisor),
        *_changes(supervisor),
    ]
    return Starlette(routes=routes, exception_handlers=_HANDLERS)


def _changes(supervisor: Supervisor) -> list[Route]:
    """What changes the mesh, or says what a change would be worth."""
    # One change at a time: what `read` has judged must still be in force when its result is.
    changing = asyncio.Lock()

    async def apply(request: Request) -> Response:
        body = await _body(request)
        texts = [Text(**text) for text in body["texts"]]
        async with changing:
            _refuse_if_changed(supervisor, body)
            # In a thread: to read a few MB takes seconds, and probes, DNS and the reaping of pods are not to wait.
            force = bool(body.get("force"))
            items, warnings = await asyncio.to_thread(supervisor.store.read, texts, body["namespace"], force=force)
            results = supervisor.apply(items)
        return JSONResponse({"results": results, "warnings": warnings})

    async def validate(request: Request) -> Response:
        body = await _body(request)
        texts = [Text(**text) for text in body["texts"]]
        verdict = await asyncio.to_thread(supervisor.store.judge, texts, body["namespace"])
        return JSONResponse({"problems": [problem.as_json() for problem in verdict.problems]})

    async def delete(request: Request) -> Response:
        body = await _body(request)
        keys = [Key(*key) for key in body["keys"]]
        results = []
        async with changing:
            _refuse_if_changed(supervisor, body)
            if not body.get("force"):
                await asyncio.to_thread(supervisor.store.refuse_if_named, keys)
            for key in keys:
                try:
                    supervisor.delete(key)
                except KeyError:
                    results.append((key, "not found"))
                else:
                    results.append((key, "deleted"))
        return JSONResponse({"results": results})

    found = {"/apply": apply, "/validate": validate, "/delete": delete}
    return [Route(path, endpoint, methods=["POST"]) for path, endpoint in found.items()]


def _refuse_if_changed(supervisor: Supervisor, body: Any) -> None:
    supervisor.store.refuse_if_changed([(Key(*key), document) for key, document in body.get("expected", ())])


def _asked_of_others(supervisor: Supervisor) -> list[Route]:
    """What the mesh's own pods answer."""

    async def syncz(_: Request) -> Response:
        return Response(await supervisor.ask(names.CONTROL_PLANE, "/debug/syncz"), media_type="application/json")

    async def configz(_: Request) -> Response:
        page = await supervisor.ask(names.CONTROL_PLANE, "/debug/configz")
        # Files are named as pilot's pod sees them; whoever reads this looks for them on the machine.
        page = page.replace(f"{CONFIG_MOUNT}/".encode(), f"{supervisor.state.config}/".encode())
        return Response(page, media_type="application/json")

    async def telemetry(request: Request) -> Response:
        page = request.path_params["page"]
        if page not in TELEMETRY_PAGES:
            raise MeshError(f"{TELEMETRY} has no page {page}; there are {', '.join(TELEMETRY_PAGES)}")
        return Response(await supervisor.ask(TELEMETRY, f"/{page}?{request.url.query}"), media_type="application/json")

    async def authority(request: Request) -> Response:
        step = request.path_params.get("step", "")
        path = f"/ca/{quote(step, safe='')}" if step else "/ca"
        page = await supervisor.ask(names.CONTROL_PLANE, path, request.method)
        return Response(page, media_type="application/json")

    return [
        Route("/syncz", syncz),
        Route("/configz", configz),
        Route("/ca", authority),
        Route("/ca/{step}", authority, methods=["POST"]),
        Route("/telemetry/{page}", telemetry),
    ]


async def _body(request: Request) -> Any:
    if int(request.headers.get("content-length", 0)) > MAX_APPLY:
        raise MeshError(f"more than {MAX_APPLY // 2**20} MiB at once; apply the files in parts")
    return json.loads(await request.body())


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409)


async def _changed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 412)


async def _absent(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse({"error": "refused", "errors": [str(each) for each in error.errors]}, 422)


_HANDLERS: Final = {RefusedError: _refused, ChangedError: _changed, AbsentError: _absent, MeshError: _failed}


class Server(uvicorn.Server):
    """uvicorn on a socket of ours; signals stay with the composition root."""

    def __init__(self, app: Starlette, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield

    async def serve_until_told(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[self._listener])
