"""Filters in plain Python: `module:Class` → the filter. From a bootstrap, as a TypedStruct of our own:

    type_url: type.googleapis.com/pymesh.filters.v1alpha1.Python
    value:
      class: greeting:Greeter            # importable by the proxy
      config: {word: hello}              # for its __init__; anything
      timeout: 0.05s                     # the longest that a hook may take
      failure_mode_allow: false          # true: a request goes on if a hook fails

or, for every HTTP connection, by `--filter greeting:Greeter`.
"""

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import iscoroutinefunction, signature
from typing import Final
from weakref import WeakValueDictionary

from google.protobuf.json_format import MessageToDict, MessageToJson, Parse
from google.protobuf.struct_pb2 import Struct
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.config import typed_struct
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.python_hooks import HOOKS, Made, PythonFilter, PythonSettings

log = logging.getLogger("pymesh.filter")

PYTHON_TYPE: Final = "type.googleapis.com/pymesh.filters.v1alpha1.Python"
# Seconds that a hook may take where nothing is said: a request waits for it, and for a hook that does not await,
# all others do.
DEFAULT_TIMEOUT: Final = 0.05
# By class and configuration, for as long as a filter has it: what it has gathered outlives a push that does not change
# it, and connection managers that ask for the same one share it.
_made: Final[WeakValueDictionary[tuple[str, str], Made]] = WeakValueDictionary()


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
        made=_make(name, "{}" if config is None else MessageToJson(config.struct_value, sort_keys=True), here),
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


def _make(name: str, config: str, path: str) -> Made:
    """The instance for this configuration: the same one for as long as somebody has it.

    Raises:
        ConfigError: there is no such class, it is not a filter, or it does not want to be made.
    """
    found = _made.get((name, config))
    if found is None:
        try:
            found = _made[name, config] = Made(_instance(name, config))
        except ConfigError as error:
            raise ConfigError(error.problem, path=path if path == "--filter" else join(path, "class")) from error
    return found


def _instance(name: str, config: str) -> object:
    kind = _class(name)
    settings: Mapping[str, object] = MessageToDict(Parse(config, Struct()))
    try:
        return kind() if not settings and not _takes_configuration(kind) else kind(settings)
    except Exception as error:  # of any kind: it is somebody's own code
        log.error("filter %s cannot be made", name, exc_info=error)
        raise ConfigError(f"{name} cannot be made: {type(error).__name__}: {error}") from error


def _takes_configuration(kind: type) -> bool:
    try:
        signature(kind).bind({})
    except (TypeError, ValueError):
        return False
    return True


def _class(name: str) -> type:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ConfigError(f"{name!r} is not of the form module:Class")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # of any kind: importing runs somebody's own code
        log.error("filter %s cannot be loaded", name, exc_info=error)
        missing = isinstance(error, ModuleNotFoundError) and error.name == module
        hint = "; is its directory in PYTHONPATH?" if missing else ""
        raise ConfigError(f"{name} cannot be loaded: {type(error).__name__}: {error}{hint}") from error
    hooks = {hook: getattr(found, hook) for hook in HOOKS if callable(getattr(found, hook, None))}
    if not isinstance(found, type) or not hooks:
        raise ConfigError(f"{name} is not a class with one of the hooks {', '.join(HOOKS)}")
    for hook, function in hooks.items():
        _check_hook(f"{name}.{hook}", hook, function)
    return found


def _check_hook(name: str, hook: str, function: Callable[..., object]) -> None:
    """Refuse at once what would fail at every request."""
    if iscoroutinefunction(function) and hook != "on_request":
        raise ConfigError(f"{name} is `async def`: only on_request can wait")
    arguments = ("self", "request", "response")[: 3 if hook == "on_response" else 2]
    try:
        signature(function).bind(*arguments)
    except TypeError:
        raise ConfigError(f"{name} must take ({', '.join(arguments)})") from None
