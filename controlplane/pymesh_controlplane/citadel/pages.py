"""The CA's pages on port 15014, for callers in the pod: what is in force, and the steps of a rotation.

GET  /ca            what is in force: `report.Report` as JSON
POST /ca/<step>     take this step of a rotation; 409 and the reason if it cannot be taken now, 404 for no such step
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pymesh.errors import MeshError
from pymesh_controlplane.citadel.custodian import Custodian
from pymesh_controlplane.citadel.report import Step


def routes(custodian: Custodian) -> Sequence[BaseRoute]:
    """The pages of `custodian`."""

    async def show(_: Request) -> Response:
        return JSONResponse(custodian.report().as_json())

    async def rotate(request: Request) -> Response:
        try:
            report = await custodian.rotate(Step(request.path_params["step"]))
        except ValueError:
            return JSONResponse({"error": f"the steps are {', '.join(Step)}"}, 404)
        except MeshError as error:
            return JSONResponse({"error": str(error)}, 409)
        return JSONResponse(report.as_json())

    return [Route("/ca", show), Route("/ca/{step}", rotate, methods=["POST"])]
