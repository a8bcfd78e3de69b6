"""One request to the Kubernetes API: an answer in time, or an error in words. lightkube makes it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import httpx2
from lightkube.core.exceptions import ApiError
from lightkube.core.exceptions import ConfigError as LightkubeError

from pymesh.errors import MeshError, printable

# Seconds for an answer, unless the caller has less: an API server answers within milliseconds or is in trouble.
TIMEOUT: Final = 5.0
# Seconds between two attempts of who is patient: doubled from the first to the last, half of it by chance.
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 10.0
# Characters of what the API server says that are told on.
MAX_LENGTH: Final = 500

NOT_FOUND: Final = 404
CONFLICT: Final = 409

Answer = TypeVar("Answer")


class KubernetesError(MeshError):
    """There was no good answer; the text says why.

    Attributes:
        code: its HTTP status; 0 if there was none.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        self.code = code
        super().__init__(text)


async def ask(request: Awaitable[Answer], timeout: float = TIMEOUT) -> Answer:  # noqa: ASYNC109  of every caller's request
    """The answer to `request`, a call of lightkube's client.

    Raises:
        KubernetesError: there was none in time, or it is no.
    """
    try:
        async with asyncio.timeout(timeout):
            return await request
    except TimeoutError:
        raise KubernetesError(f"the API server does not answer within {timeout:.3g} s") from None
    except ApiError as error:
        said = printable(str(error.status.message or "it says no"))[:MAX_LENGTH]
        raise KubernetesError(
            f"the API server: {said} ({error.response.status_code})", error.response.status_code
        ) from error
    except httpx2.HTTPStatusError as error:
        code = error.response.status_code
        raise KubernetesError(f"the API server, or who stands before it, answers {code}", code) from error
    except (httpx2.HTTPError, LightkubeError, OSError) as error:
        why = printable(str(error))[:MAX_LENGTH] or type(error).__name__
        raise KubernetesError(f"the API server cannot be asked: {why}") from error
    except (KeyError, ValueError) as error:  # lightkube of an answer that is not from an API server
        raise KubernetesError("what answers is not an API server") from error


async def patiently(question: Callable[[], Awaitable[Answer]], told: Callable[[str], None]) -> Answer:
    """The answer to `question`, which raises KubernetesError as long as there is none; `told` is told why."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await question()
        except KubernetesError as error:
            told(str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads retries, guards nothing
            pause = min(pause * 2, LONGEST_PAUSE)
