"""A message head: start line and header fields as they arrived, with the changes made on the way through."""


class Head:
    """A request's or a response's head; see `codec/http1.py` for how it is read.

    Attributes:
        method: request method (b"GET"); empty for a response.
        path: request target as in `:path` (b"/reviews/1?x=y"); absolute-form is already split.
        authority: Host, or the absolute target's; b"" where there is none.
        status: response status; 0 for a request.
    """

    __slots__ = ("authority", "method", "path", "status")

    method: bytes
    path: bytes
    authority: bytes
    status: int

    def get(self, name: bytes) -> bytes | None:
        """Value of the header `name` (lower case); several are joined by `,` as RFC 9110 5.3 says."""
        raise NotImplementedError

    def set(self, name: bytes, value: bytes) -> None:
        """Replace every `name` by one."""
        raise NotImplementedError

    def add(self, name: bytes, value: bytes) -> None:
        """Append one more `name`."""
        raise NotImplementedError

    def remove(self, name: bytes) -> None:
        """Take away every `name`."""
        raise NotImplementedError
