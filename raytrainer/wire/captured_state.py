"""Which variables outside of the user's functions are changed by them, and so change on the workers alone.

A callback that counts in a list of its script works in one process. On Ray the function and the list are copied, and
the script's own list stays empty. Attributes of trainer and callbacks come back after each call; a variable that a
function closes over, or a module's, does not. This is found in the source of the functions, so nothing is known about
functions without source, and nothing is said about variables that are only read.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import cast

_CHANGING_CALLS = frozenset(
    {
        "add",
        "append",
        "appendleft",
        "clear",
        "difference_update",
        "discard",
        "extend",
        "insert",
        "pop",
        "popitem",
        "remove",
        "setdefault",
        "update",
    }
)
_CONTAINERS = (list, dict, set, bytearray, deque)
_PACKAGES = (
    "/site-packages/",
    "/dist-packages/",
    f"{Path(__file__).parents[1]}/",
    f"{sysconfig.get_path('stdlib')}/",  # decorates what dataclasses make
)


@dataclass(frozen=True, slots=True)
class Change:
    """A variable that a function changes."""

    function: str
    variable: str
    kind: str
    """Its type, in words."""


def captured_changes(objects: Iterable[object]) -> list[Change]:
    """Find the variables that functions and methods of the user change outside of themselves.

    Args:
        objects: Functions, and instances whose classes' methods are looked at.

    Returns:
        Each change once, in the order of the objects.
    """
    found: dict[Change, None] = {}
    for one in objects:
        for function in _functions_of(one):
            for name, kind in _changed_in(function):
                found[Change(function.__qualname__.replace("<locals>.", ""), name, kind)] = None
    return list(found)


def _functions_of(one: object) -> Iterator[FunctionType]:
    function = getattr(one, "__func__", one)
    if isinstance(function, FunctionType):
        yield function
        return
    for cls in type(one).__mro__:
        yield from (member for member in vars(cls).values() if isinstance(member, FunctionType))


def _changed_in(function: FunctionType) -> Iterator[tuple[str, str]]:
    if any(package in function.__code__.co_filename for package in _PACKAGES):
        return  # what a library keeps in its modules is its own
    outside = _variables_of(function)
    nodes = [node for definition in _definitions_of(function) for node in ast.walk(definition)]
    nodes.sort(key=lambda node: (getattr(node, "lineno", 0), getattr(node, "col_offset", 0)))
    rebound = {
        name
        for node in nodes
        if isinstance(node, ast.Global | ast.Nonlocal)
        for name in node.names
        if name in outside
    }
    for node in nodes:
        for name, is_call in _names_changed_by(node, rebound):
            value = outside.get(name)
            is_container = isinstance(value, _CONTAINERS)
            if (
                name in rebound
                or is_container
                or not (is_call or isinstance(value, ModuleType | type | None))
            ):
                yield name, type(cast("object", value)).__name__


def _definitions_of(function: FunctionType) -> list[ast.AST]:
    """Where the source of a function's file defines it; several lambdas may stand on one line."""
    try:
        lines, _ = inspect.findsource(function)
        definitions = _definitions_in("".join(lines))
    except (OSError, TypeError, SyntaxError, IndexError):
        return []
    code = function.__code__
    return definitions.get((code.co_firstlineno, code.co_name == "<lambda>"), [])


@functools.lru_cache(maxsize=16)
def _definitions_in(source: str) -> dict[tuple[int, bool], list[ast.AST]]:
    """First line of a function, and whether it is a lambda -> its definitions."""
    found: dict[tuple[int, bool], list[ast.AST]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef):
            found.setdefault((_first_line(node), isinstance(node, ast.Lambda)), []).append(node)
    return found


def _first_line(node: ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _variables_of(function: FunctionType) -> dict[str, object]:
    """Name -> value of what a function closes over or reads from its module."""
    code = function.__code__
    own = {*code.co_varnames, *code.co_cellvars}
    found: dict[str, object] = {
        name: function.__globals__[name]
        for name in code.co_names
        if name in function.__globals__ and name not in own
    }
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if name != "__class__":
            try:
                found[name] = cast("object", cell.cell_contents)
            except ValueError:  # nothing was assigned to it yet
                found[name] = None
    return found


def _names_changed_by(node: ast.AST, rebound: set[str]) -> Iterator[tuple[str, bool]]:
    """The names whose objects a statement changes, and whether it does so by calling a method of the object itself.

    Such a method changes a container; what it does to other objects is not known.
    """
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING_CALLS:
            base = _base(node.func.value)
            if isinstance(base, ast.Name):
                yield base.id, base is node.func.value
        return
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    for target in targets:
        base = _base(target)
        if isinstance(base, ast.Name) and (base is not target or base.id in rebound):
            yield base.id, False


def _base(node: ast.expr) -> ast.expr:
    """``x`` of ``x.y["z"]``."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node


def warning(changes: list[Change]) -> str:
    """What the user reads about changes that stay on the workers."""
    listed = "; ".join(
        f"{change.function} changes `{change.variable}` ({change.kind})" for change in changes[:3]
    )
    more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
    return (
        f"{listed}{more}. On Ray these functions run on the workers, with copies: what they change there does not come "
        "back to this process. Keep it in attributes of the callback or the trainer (self.x), which do come back after "
        "each call."
    )
