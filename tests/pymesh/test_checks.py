"""What a check is made of, as whoever writes one tests it."""

import pytest

from pymesh.checks import CheckError, Request, Verdict, allow, ask, check, checks_in, deny
from pymesh.identity import Identity


@check
def only_shoppers(request: Request) -> Verdict:
    identity = request.identity
    if identity is not None and identity.namespace == "shop":
        return allow(seconds=30, by=["source.namespace"])
    return deny(403, "for the shop\n only")


def test_a_check_is_asked_without_a_mesh() -> None:
    said = ask(only_shoppers, Request(principal="spiffe://cluster.local/ns/shop/sa/web"))
    assert said == Verdict(True, seconds=30, by=("source.namespace",))
    said = ask(only_shoppers, Request())
    assert (said.allowed, said.status, said.reason) == (False, 403, "for the shop only")


def test_who_calls() -> None:
    assert Request(principal="spiffe://t/ns/a/sa/b").identity == Identity("t", "a", "b")
    assert Request(principal="anybody").identity is None


def test_checks_are_found_by_their_names() -> None:
    @check("other-name")
    def named(request: Request) -> Verdict:
        return allow()

    assert checks_in({"a": only_shoppers, "b": named, "same": named, "c": 3, "ask": ask}) == {
        "only_shoppers": only_shoppers,
        "other-name": named,
    }
    with pytest.raises(CheckError, match="two checks called only_shoppers"):
        checks_in({"a": only_shoppers, "b": check("only_shoppers")(lambda _: allow())})


def test_what_cannot_be_a_check() -> None:
    async def waits(request: Request) -> Verdict:
        return allow()

    with pytest.raises(CheckError, match="waits is async"):
        check(waits)  # type: ignore[call-overload]  # what the type checker says, too
    with pytest.raises(CheckError, match="cannot be called with a request"):
        check("none")(allow)  # type: ignore[arg-type]  # likewise


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: deny(302), "302 is not the status of a refusal"),
        (lambda: allow(seconds=-1), "for -1 seconds"),
        (lambda: allow(seconds=float("inf")), "for inf seconds"),
        (lambda: allow(uses=0), "used 0 times"),
        (lambda: deny(by=["source.ip"]), "is no attribute"),
        (lambda: deny(by="source.principal"), "list of attributes"),
        (lambda: ask(lambda _: Verdict(False, 2**40), Request()), "not the status of a refusal"),
        (lambda: ask(lambda _: Verdict(True, seconds=float("inf")), Request()), "for inf seconds"),
        (lambda: ask(lambda _: Verdict(True, by=("source.ip",)), Request()), "is no attribute"),
        (lambda: ask(lambda _: True, Request()), "returned bool"),  # type: ignore[arg-type,return-value]  # so it is
    ],
)
def test_what_a_check_cannot_say(make: object, problem: str) -> None:
    assert callable(make)
    with pytest.raises(CheckError, match=problem):
        make()
