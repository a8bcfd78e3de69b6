"""The Kubernetes API: how it is reached, and kinds of it kept at hand as they change.

lightkube has the configuration, the credentials, TLS and the models. What it lacks for a control plane that must not
miss anything is here: lists in pages, watches with bookmarks that notice their own silence, and a relist after 410.
"""
