"""What is public: read by the tests of the API, and by the documentation, whose reference is made from it."""

import ast
import inspect
import types
import typing
from typing import Any

import jconv


def public_modules() -> list[types.ModuleType]:
    """jconv and every module in it that it exports."""
    return [jconv, *(v for name in sorted(exported(jconv)) if inspect.ismodule(v := getattr(jconv, name)))]


def exported(module: types.ModuleType) -> list[str]:
    """The public names of a module, read from its source: what it defines, and imports as themselves."""
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names if alias.name == alias.asname]
    return [name for name in names if not name.startswith("_")]


def symbols(module: types.ModuleType) -> dict[str, Any]:
    """The functions, classes and instances to call among them, without types like ``tuple[int, ...]``."""
    values = {name: getattr(module, name) for name in exported(module)}
    return {name: v for name, v in values.items() if callable(v) and typing.get_origin(v) is None}
