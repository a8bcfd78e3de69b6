"""The sources of checks in Python: keys NAME.py of the mesh's ConfigMap. Pure: they are read, and run elsewhere."""

import ast
from collections.abc import Mapping

from pymesh.resources.kubernetes import ConfigMap
from pymesh.resources.mesh_config import CHECKS_ENDING, CONFIG_MAP
from pymesh.resources.resource import Key, holds
from pymesh_controlplane.pilot.model import World


def sources_of(world: World) -> dict[str, str]:
    """The sources by key, sorted."""
    resource = world.resources.get(Key("ConfigMap", world.root_namespace, CONFIG_MAP))
    data = resource.raw.get("data") if resource is not None and holds(resource, ConfigMap) else None
    if not isinstance(data, dict):
        return {}
    return {key: text for key, text in sorted(data.items()) if key.endswith(CHECKS_ENDING) and isinstance(text, str)}


def problem_of(key: str, text: str) -> str:
    """What is wrong with a source before it is run; "" if nothing."""
    try:
        ast.parse(text, key)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        return f"this is no Python: {line}{getattr(error, 'msg', error)}"
    return ""


def functions_of(files: Mapping[str, str]) -> list[str]:
    """The names of the functions with `@check` or `@check("name")`, as far as they can be read off."""
    found: list[str] = []
    for key, text in files.items():
        if problem_of(key, text):
            continue
        for node in ast.walk(ast.parse(text, key)):
            if isinstance(node, ast.FunctionDef):
                found += [name for decorator in node.decorator_list if (name := _called(decorator, node.name))]
    return found


def _called(decorator: ast.expr, function: str) -> str:
    """The name of the check that `decorator` makes of a function; "" if it is another decorator."""
    if isinstance(decorator, ast.Call):
        argument = decorator.args[0] if decorator.args else None
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and _is_check(decorator.func):
            return argument.value
        return ""
    return function if _is_check(decorator) else ""


def _is_check(decorator: ast.expr) -> bool:
    name = decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")
    return bool(name == "check")
