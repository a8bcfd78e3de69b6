"""productpage: the page a visitor sees, put together from details and reviews; the same as JSON below `/api/v1`.

`/productpage/quoted` and `/api/v1/quote` ask a web site outside the mesh, too (`deploy/samples/egress`).

Environment: DETAILS_HOSTNAME (`details`), REVIEWS_HOSTNAME (`reviews`), QUOTES_HOSTNAME (`quotes.example.com:80`),
each a name or name:port.
"""

import json
import os
from html import escape

from serving import Request, Response, as_json, get, serve

DETAILS = os.environ.get("DETAILS_HOSTNAME", "details")
REVIEWS = os.environ.get("REVIEWS_HOSTNAME", "reviews")
QUOTES = os.environ.get("QUOTES_HOSTNAME", "quotes.example.com:80")
PRODUCT = {"id": "0", "title": "The Comedy of Errors"}


def api(request: Request) -> Response:
    """`/api/v1/products`, `/api/v1/products/<id>` (details), `/api/v1/products/<id>/reviews`."""
    parts = request.path.strip("/").split("/")[3:]
    if not parts:
        return as_json([PRODUCT])
    if parts[0] != PRODUCT["id"]:
        return as_json({"error": f"there is no product {parts[0]}"}, 404)
    if len(parts) == 1:
        return get(DETAILS, f"/details/{parts[0]}", request)
    if parts[1:] == ["reviews"]:
        return get(REVIEWS, f"/reviews/{parts[0]}", request)
    return as_json({"error": f"there is no {request.path}"}, 404)


def quote(request: Request) -> Response:
    """`/api/v1/quote`: a line from quotes.example.com. How it gets there is the mesh's business."""
    return get(QUOTES, "/", request)


def whoami_upstream(request: Request) -> Response:
    """`/whoami/reviews`, `/whoami/details`: whom those see when this app calls them."""
    return get(REVIEWS if request.path == "/whoami/reviews" else DETAILS, "/whoami", request)


def productpage(request: Request) -> Response:
    """The page. A part that is missing says so; the rest is shown."""
    details = get(DETAILS, "/details/0", request)
    reviews = get(REVIEWS, "/reviews/0", request)
    body = [f"<h1>{escape(PRODUCT['title'])}</h1>"]
    if details.status == 200:
        rows = json.loads(details.body).items()
        body += ["<dl>", *(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in rows), "</dl>"]
    else:
        body.append("<p>Product details are not available right now.</p>")
    if reviews.status == 200:
        found = json.loads(reviews.body)
        body.append(f"<h2>Reviews ({escape(found['version'])})</h2>")
        body += [_review(review) for review in found["reviews"]]
    else:
        body.append("<p>Reviews are not available right now.</p>")
    if request.path == "/productpage/quoted":
        answer = quote(request)
        text = json.loads(answer.body)["quote"] if answer.status == 200 else "not available right now"
        body.append(f"<p>Quote of the day: {escape(text)}</p>")
    page = f"<!doctype html><html lang=en><title>Bookinfo</title><body>{''.join(body)}</body></html>\n"
    return Response(200, page.encode(), "text/html; charset=utf-8")


def _review(review: dict[str, dict[str, object]]) -> str:
    rating = review.get("rating", {})
    stars = ""
    if "stars" in rating:
        stars = f' <span style="color:{escape(str(rating["color"]))}">{"★" * int(str(rating["stars"]))}</span>'
    elif "error" in rating:
        stars = f" <em>{escape(str(rating['error']))}</em>"
    return f"<blockquote>{escape(str(review['text']))}{stars}</blockquote>"


if __name__ == "__main__":
    upstreams = {"/whoami/reviews": whoami_upstream, "/whoami/details": whoami_upstream}
    serve({"/productpage": productpage, "/api/v1/products": api, "/api/v1/quote": quote, **upstreams})
