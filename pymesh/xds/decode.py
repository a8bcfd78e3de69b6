"""Strict reading of configuration files and of xDS resources.

Whatever is unknown, misspelt, of the wrong type or not supported is refused with its field path, and with line and
column where it came from a file.
"""

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap


def load_bootstrap(text: str, file: str) -> Bootstrap:
    """The Envoy v3 bootstrap in `text`, YAML or JSON, checked against the table of supported fields.

    Raises:
        ConfigError: it is malformed, or holds a field that is unknown or not supported.
    """
    raise NotImplementedError
