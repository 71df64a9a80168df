"""Reads the help of a dataclass field as its docstring, for the API reference.

Fields of arguments carry their description in ``metadata["help"]``, where a command line finds it.
"""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Docstring, Extension


class FieldHelp(Extension):
    """An extension of griffe, which reads the source for mkdocstrings."""

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_: Any) -> None:
        """Give a field with help a docstring, and its default as its value.

        Args:
            node: The syntax tree of the assignment.
            attr: What griffe has read of it.
        """
        call = getattr(node, "value", None)
        if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "field":
            return
        keywords = {one.arg: one.value for one in call.keywords}
        text = help_in(keywords.get("metadata"))
        if text is not None and attr.docstring is None:
            attr.docstring = Docstring(text, lineno=node.lineno, parent=attr)
        if "default" in keywords:
            attr.value = ast.unparse(keywords["default"])


def help_in(metadata: ast.expr | None) -> str | None:
    """The text under "help" in a literal dict."""
    if not isinstance(metadata, ast.Dict):
        return None
    for key, value in zip(metadata.keys, metadata.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "help":
            return str(ast.literal_eval(value))
    return None
