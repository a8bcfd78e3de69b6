"""What says the same: defaults, additions of others, and quantities in another form."""

import pytest

from pymesh_controlplane.injector.kept import keep, says


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": True}, {"a": 1}, False),
        (["x", "y"], ["x"], False),
        ([{"name": "new"}, {"name": "a", "more": 1}, {"name": "b"}], [{"name": "a"}, {"name": "b"}], True),
        ([{"name": "b"}, {"name": "a"}], [{"name": "a"}, {"name": "b"}], False),
        ([], [{"name": "a"}], False),
        ({"limits": {"cpu": "2", "memory": "1Gi"}}, {"limits": {"cpu": "2000m", "memory": "1024Mi"}}, True),
        ({"requests": {"cpu": "100m"}}, {"requests": {"cpu": "0.1"}}, True),
        ({"requests": {"cpu": "1e3"}}, {"requests": {"cpu": "1k"}}, True),
        ({"requests": {"cpu": "100m", "memory": "1"}}, {"requests": {"cpu": "200m"}}, False),
        ({"requests": {"cpu": "some"}}, {"requests": {"cpu": "other"}}, False),
        ({"value": "1"}, {"value": "1000m"}, False),
    ],
)
def test_more_is_the_same_and_less_is_not(whole: object, part: object, expected: bool) -> None:
    assert says(whole, part) is expected


def test_volumes_keep_their_places_and_what_is_new_comes_last() -> None:
    spec = {"volumes": [{"name": "app"}, {"name": "new"}, {"name": "ours", "emptyDir": {}}]}
    keep(spec, {"volumes": [{"name": "ours", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "app"}]})
    assert spec["volumes"] == [{"name": "ours", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "app"}, {"name": "new"}]
