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
