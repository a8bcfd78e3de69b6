"""The policy service: how much all sidecars of a service together may let in."""
