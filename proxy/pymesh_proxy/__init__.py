"""The data plane: the sidecar, the gateways and the redirect."""
