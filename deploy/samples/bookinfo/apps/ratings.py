"""ratings: how many stars each reviewer gave."""

from serving import Request, Response, as_json, serve

STARS = {"Reviewer1": 5, "Reviewer2": 4}


def ratings(request: Request) -> Response:
    """`/ratings/<product>`."""
    return as_json({"id": request.path.rpartition("/")[2], "ratings": STARS})


if __name__ == "__main__":
    serve({"/ratings": ratings})
