"""One request: its answer, or why there is none, in words."""

import asyncio

import httpx2
import pytest
from lightkube import AsyncClient
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import User
from lightkube.resources.core_v1 import Namespace

from pymesh_controlplane.kube import asking
from pymesh_controlplane.kube.asking import KubernetesError, ask, patiently

STATUS = {
    "kind": "Status",
    "apiVersion": "v1",
    "message": 'namespaces "x" is forbidden',
    "code": 403,
    "reason": "Forbidden",
}


async def asked(response: httpx2.Response | Exception, timeout: float = 5.0) -> str:
    """How a request ends that is answered so."""

    async def answer(_: httpx2.Request) -> httpx2.Response:
        if isinstance(response, Exception):
            raise response
        return response

    config = KubeConfig.from_server("http://api").get()
    assert config is not None
    client = AsyncClient(config=config._replace(user=User()), transport=httpx2.MockTransport(answer))
    try:
        with pytest.raises(KubernetesError) as caught:
            await ask(client.get(Namespace, "x"), timeout)
    finally:
        await client.close()
    return f"{caught.value.code} {caught.value}"


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (httpx2.Response(403, json=STATUS), '403 the API server: namespaces "x" is forbidden (403)'),
        (
            httpx2.Response(502, text="no backend", headers={"content-type": "text/plain"}),
            "502 the API server, or who stands before it, answers 502",
        ),
        (httpx2.Response(503), "0 what answers is not an API server"),
        (httpx2.Response(500, json=["?"]), "0 what answers is not an API server"),
        (httpx2.Response(200, text="<html>"), "0 what answers is not an API server"),
        (httpx2.ConnectError("refused"), "0 the API server cannot be asked: refused"),
        (httpx2.ReadTimeout(""), "0 the API server cannot be asked: ReadTimeout"),
        (OSError("no such file"), "0 the API server cannot be asked: no such file"),
    ],
)
async def test_trouble_is_told_in_words(response: httpx2.Response | Exception, sentence: str) -> None:
    """Whatever answers in place of an API server, it is an error of one kind."""
    assert await asked(response) == sentence


async def test_an_answer_has_its_time() -> None:
    with pytest.raises(KubernetesError, match=r"does not answer within 0\.01 s"):
        await ask(asyncio.Event().wait(), 0.01)


async def test_who_is_patient_asks_until_there_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """And hears each time why there was none."""
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.001)
    answers = iter([KubernetesError("away"), KubernetesError("still away"), "here"])
    told: list[str] = []

    async def question() -> str:
        answer = next(answers)
        if isinstance(answer, KubernetesError):
            raise answer
        return answer

    assert await patiently(question, told.append) == "here"
    assert told == ["away", "still away"]
