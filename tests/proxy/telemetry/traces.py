"""Ids of a trace, and a request that names them."""

from pymesh_proxy.codec.headers import Head
from tests.support.heads import request

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
OWN = "b7ad6b7169203331"


def head(*fields: tuple[str, str]) -> Head:
    """The head of a request with these fields."""
    return request(headers=fields)
