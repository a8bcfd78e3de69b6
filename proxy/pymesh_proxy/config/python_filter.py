"""Filters in plain Python: `module:Class` → the filter. From a bootstrap, as a TypedStruct of our own:

    type_url: type.googleapis.com/pymesh.filters.v1alpha1.Python
    value:
      class: greeting:Greeter            # importable by the proxy
      config: {word: hello}              # for its __init__; anything
      timeout: 0.05s                     # the longest that a hook may take
      failure_mode_allow: false          # true: a request goes on if a hook fails

or, for every HTTP connection, by `--filter greeting:Greeter`.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Final

from google.protobuf.json_format import MessageToDict, MessageToJson, Parse
from google.protobuf.struct_pb2 import Struct
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.config import typed_struct
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.python import HOOKS, PythonFilter, PythonSettings

PYTHON_TYPE: Final = "type.googleapis.com/pymesh.filters.v1alpha1.Python"
# Seconds that a hook may take where nothing is said: a request waits for it, and for a hook that does not await,
# all others do.
DEFAULT_TIMEOUT: Final = 0.05
# Instances that are kept, so that what they have gathered outlives a push of the same configuration.
MAX_INSTANCES: Final = 256


def python_filter(message: TypedStruct, path: str) -> HttpFilter:
    """The filter in a TypedStruct.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    here = join(path, "value")
    fields = typed_struct.fields(message.value, here, {"class"}, {"config", "timeout", "failure_mode_allow"})
    name = typed_struct.text(fields["class"], join(here, "class"))
    config = fields.get("config")
    if config is not None and config.WhichOneof("kind") != "struct_value":
        raise ConfigError("must be an object", path=join(here, "config"))
    settings = PythonSettings(
        name=name,
        instance=_make(name, "{}" if config is None else MessageToJson(config.struct_value, sort_keys=True), here),
        timeout=typed_struct.duration(fields.get("timeout"), join(here, "timeout"), DEFAULT_TIMEOUT),
        failure_mode_allow=typed_struct.flag(fields.get("failure_mode_allow"), join(here, "failure_mode_allow")),
    )
    return PythonFilter(settings).as_filter()


def named_filter(name: str) -> HttpFilter:
    """The filter that `--filter` names, with no configuration.

    Raises:
        ConfigError: there is no such class, or it is not a filter.
    """
    return PythonFilter(PythonSettings(name, _make(name, "{}", "--filter"), DEFAULT_TIMEOUT, False)).as_filter()


def _make(name: str, config: str, path: str) -> object:
    """The instance for this configuration: the same one for as long as it is asked for.

    Raises:
        ConfigError: there is no such class, it is not a filter, or it does not want to be made.
    """
    try:
        return _instance(name, config)
    except ConfigError as error:
        raise ConfigError(error.problem, path=join(path, "class") if path != "--filter" else path) from error


@lru_cache(maxsize=MAX_INSTANCES)
def _instance(name: str, config: str) -> object:
    kind = _class(name)
    settings: Mapping[str, object] = MessageToDict(Parse(config, Struct()))
    try:
        return kind(settings)
    except Exception as error:  # of any kind: it is somebody's own code
        raise ConfigError(f"{name} cannot be made: {type(error).__name__}: {error}") from error


def _class(name: str) -> type:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ConfigError(f"{name!r} is not of the form module:Class")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # of any kind: importing runs somebody's own code
        hint = "is its directory in PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else "see the log above"
        raise ConfigError(f"{name} cannot be loaded: {type(error).__name__}: {error}; {hint}") from error
    if not isinstance(found, type) or not any(callable(getattr(found, hook, None)) for hook in HOOKS):
        raise ConfigError(f"{name} is not a class with one of the hooks {', '.join(HOOKS)}")
    return found
