"""Istio's kinds, a module each: every public field is known, and what the mesh cannot honour yet is marked `NotYet`.

Source: istio.io/docs/reference/config/networking and .../security, release 1.27 (the versions of an API group that are
read have the same fields).
"""
