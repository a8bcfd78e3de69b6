"""What the kinds that matter must and must not be, beyond their schema: values, references and immutable fields."""

from collections.abc import Iterator

from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.kinds import Kind


def wrong(new: Object, old: Object | None, kind: Kind) -> Iterator[Object]:
    """Causes of a 422."""
    yield from ()
