"""details: what is printed on the first pages of the book."""

from serving import Request, Response, as_json, serve


def details(request: Request) -> Response:
    """`/details/<product>`."""
    return as_json(
        {
            "id": request.path.rpartition("/")[2],
            "author": "William Shakespeare",
            "year": 1595,
            "type": "paperback",
            "pages": 200,
            "language": "English",
        }
    )


if __name__ == "__main__":
    serve({"/details": details})
