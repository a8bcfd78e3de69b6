"""The kinds people write, with the place of every field in their files.

`documents` turns text into values and positions, `check` holds a value against a kind and reports everything that is
wrong with it at once, `parse` puts both together. Only the control plane imports this package: msgspec, which the
kinds are made of, is not among the sidecar's dependencies.
"""
