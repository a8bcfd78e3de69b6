"""A filter in plain Python: every request belongs to a tenant, known by its key (docs/filters.md)."""

from collections.abc import Mapping

from pymesh_proxy.filters.python import Reply, Request, Response


class Tenants:
    """Turns `x-api-key` into `x-tenant`, which the app can believe, and counts what each tenant was answered.

    Configuration: `keys`, from key to tenant.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        keys = config.get("keys")
        if not isinstance(keys, Mapping) or not keys:
            raise ValueError("`keys` is required: from key to tenant")
        self.keys = {str(key): str(tenant) for key, tenant in keys.items()}
        self.answered: dict[str, int] = {}

    def on_request(self, request: Request) -> Reply | None:
        """Let in who has a key, as the tenant whose key it is."""
        del request.headers["x-tenant"]  # what a client says of itself is not believed
        tenant = self.keys.get(request.headers.get("x-api-key", ""))
        if tenant is None:
            return Reply(401, "no such key\n", {"www-authenticate": "ApiKey"})
        request.state["tenant"] = request.headers["x-tenant"] = tenant
        request.note(f"tenant {tenant}")
        return None

    def on_response(self, request: Request, response: Response) -> None:
        """Tell the client as whom it was served, and how often so far."""
        tenant = request.state["tenant"]
        response.headers["x-served"] = f"{tenant}; {self.answered.get(tenant, 0) + 1}"

    def on_complete(self, request: Request) -> None:
        """Count it, whatever became of it."""
        tenant = request.state.get("tenant")
        if tenant is not None:
            self.answered[tenant] = self.answered.get(tenant, 0) + 1
