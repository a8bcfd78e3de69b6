"""reviews: what readers say. v1 has no stars; v2 (black) and v3 (red) ask ratings for them.

Environment: SERVICE_VERSION (`v1`), STAR_COLOR (empty: no stars), RATINGS_HOSTNAME (`ratings`).
"""

import json
import os
import socket

from serving import Request, Response, as_json, get, serve

VERSION = os.environ.get("SERVICE_VERSION", "v1")
STAR_COLOR = os.environ.get("STAR_COLOR", "")
RATINGS = os.environ.get("RATINGS_HOSTNAME", "ratings")

TEXTS = {
    "Reviewer1": "Two pairs of twins, one harbour, no way out: I laughed on every page.",
    "Reviewer2": "Short, quick and silly. The routes of its characters deserve a mesh of their own.",
}


def reviews(request: Request) -> Response:
    """`/reviews/<product>`: the texts, with stars where this version has them."""
    product = request.path.rpartition("/")[2]
    stars = ratings_of(product, request) if STAR_COLOR else {}
    found = [{"reviewer": name, "text": text, **stars.get(name, {})} for name, text in TEXTS.items()]
    return as_json({"id": product, "version": VERSION, "podname": socket.gethostname(), "reviews": found})


def ratings_of(product: str, request: Request) -> dict[str, dict[str, object]]:
    """What each reviewer's entry gets: its rating, or a word about why there is none. Reviews never fail for it."""
    answer = get(RATINGS, f"/ratings/{product}", request)
    if answer.status != 200:
        return {name: {"rating": {"error": "ratings are not available right now"}} for name in TEXTS}
    stars = json.loads(answer.body)["ratings"]
    return {name: {"rating": {"stars": count, "color": STAR_COLOR}} for name, count in stars.items()}


if __name__ == "__main__":
    serve({"/reviews": reviews})
