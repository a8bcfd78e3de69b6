"""The Kubernetes API: how it is reached, and kinds of it kept at hand as they change.

lightkube has the configuration, the credentials, TLS and the models. What it lacks for a control plane that must not
miss anything is here: lists in pages, watches with bookmarks that notice their own silence, and a relist after 410.

There are two ways to the API server: `client` (asynchronous, lightkube's) for the control plane, which follows the
cluster in one event loop, and `api` (synchronous) for commands, which ask a few questions and shall not wait 0.3 s for
the import of lightkube's models first.
"""
