"""The command line's side of the supervisor's API (`local/api.py`): HTTP over a Unix socket."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any, Final

from pymesh.errors import MeshError
from pymesh_controlplane.local import state
from pymesh_controlplane.local.state import State

# Seconds. The supervisor answers from memory; only what asks pilot takes longer, and that is bounded below this.
TIMEOUT: Final = 15.0


class Refused(MeshError):  # noqa: N818  the word that the person reads
    """The supervisor refuses what was asked; the text has every reason on a line of its own."""


class Absent(Refused):
    """What was asked for is not part of this mesh, as a component that it runs without."""


class Changed(Refused):
    """What was to be changed is not any more what it was made from."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("pymesh", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """Asks the supervisor of one mesh."""

    def __init__(self, place: State) -> None:
        self._place = place

    def get(self, path: str) -> Any:
        """The document behind `path`.

        Raises:
            MeshError: the mesh does not run, or refuses.
        """
        return self._ask("GET", path, None)

    def post(self, path: str, document: Any) -> Any:
        """The answer to `document`.

        Raises:
            MeshError: the mesh does not run, or refuses.
        """
        return self._ask("POST", path, json.dumps(document).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        connection = _UnixConnection(self._place.socket)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            document = json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException) as error:
            raise MeshError(self._explain(error)) from None
        finally:
            connection.close()
        if response.status == 404:
            raise Absent(str(document.get("error", response.reason)))
        if response.status == 412:
            raise Changed(str(document.get("error", response.reason)))
        if response.status != 200:
            errors = document.get("errors") if isinstance(document, dict) else None
            raise Refused("\n".join(errors) if errors else str(document.get("error", response.reason)))
        return document

    def _explain(self, error: Exception) -> str:
        name = self._place.mesh
        if state.supervisor(self._place) is not None:
            return f"the supervisor of mesh {name} does not answer ({error}); see {self._place.log}"
        if state.exists(self._place):
            return f"the supervisor of mesh {name} is gone: pymesh down --mesh {name} cleans up after it"
        return f"mesh {name} does not run: pymesh up -f DIR starts it"
