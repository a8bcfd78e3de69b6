"""Parts of configurations that nobody would write by hand."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.macro.machine import Cores
from benchmarks.macro.scenario import Setting


def last_of_many_routes(hosts: int, routes: int) -> Setting:
    """`${VIRTUAL_HOSTS}`: `host-N.example`, each with routes for `/route-M/`, both counted from 0."""

    @contextmanager
    def setting(_folder: Path, _cores: Cores) -> Iterator[Mapping[str, object]]:
        yield {"VIRTUAL_HOSTS": json.dumps(virtual_hosts(hosts, routes))}

    return setting


def virtual_hosts(hosts: int, routes: int) -> list[dict[str, object]]:
    """envoy.config.route.v3.VirtualHost, as JSON, which is YAML as well."""
    return [
        {
            "name": f"host-{host}",
            "domains": [f"host-{host}.example"],
            "routes": [
                {"match": {"prefix": f"/route-{route}/"}, "route": {"cluster": "upstream"}} for route in range(routes)
            ],
        }
        for host in range(hosts)
    ]


def access_policies(count: int) -> Setting:
    """`${POLICIES}`: so many of envoy.config.rbac.v3.RBAC, of which the last one lets the benchmark's requests in."""

    @contextmanager
    def setting(_folder: Path, _cores: Cores) -> Iterator[Mapping[str, object]]:
        yield {"POLICIES": json.dumps(policies(count))}

    return setting


def policies(count: int, callers: str = "127.0.0.0") -> dict[str, object]:
    """Policies for `callers` and others, by name, each in the form that pilots give to an AuthorizationPolicy.

    Of those before the last, which lets in whoever gets `/reviews/`, half are about other paths, a quarter about other
    callers, and a quarter about a header that the request has not.
    """
    ours = {"direct_remote_ip": {"address_prefix": callers, "prefix_len": 8}}
    found = {}
    for team in range(count):
        may: list[dict[str, object]] = [
            _some("rules", {"header": {"name": ":method", "string_match": {"exact": "GET"}}})
        ]
        who = ours
        path = f"/team-{team}/"
        if team == count - 1 or team % 4 in {1, 3}:
            path = "/reviews/"
        if team % 4 == 1 and team < count - 1:
            who = {"direct_remote_ip": {"address_prefix": f"10.{team}.0.0", "prefix_len": 16}}
        if team % 4 == 3 and team < count - 1:
            may.append(_some("rules", {"header": {"name": "x-team", "string_match": {"exact": f"team-{team}"}}}))
        may.append(_some("rules", {"url_path": {"path": {"prefix": path}}}))
        found[f"ns[default]-policy[team-{team:02}]-rule[0]"] = {
            "permissions": [{"and_rules": {"rules": may}}],
            "principals": [{"and_ids": {"ids": [_some("ids", who)]}}],
        }
    return found


def _some(members: str, *rules: dict[str, object]) -> dict[str, object]:
    return {f"or_{members}": {members: rules}}
