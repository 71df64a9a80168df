"""Reads an argument that is a dict, the path of a JSON file, or JSON text as a command line passes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from raytrainer.errors import ConfigurationError


def read_object(value: object, name: str) -> dict[str, Any]:
    """Read the value of an argument; None is an empty dict.

    Args:
        value: None, a mapping, a path, or a string that begins with a brace.
        name: The argument, for messages.

    Raises:
        ConfigurationError: If the file cannot be read or is not a JSON object; gives line and column.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    if not isinstance(value, str | Path):
        raise ConfigurationError(
            f"{name} is a {type(value).__name__}. Give a dict, or the path of a JSON file."
        )
    text = str(value).strip()
    try:
        found: Any = json.loads(text if text.startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}={text!r} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{name}={text!r} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    if not isinstance(found, dict):
        raise ConfigurationError(
            f"{name}={text!r} contains a {type(found).__name__}; a JSON object was expected."
        )
    return cast("dict[str, Any]", found)


def line_of(value: object, key: str) -> str:
    """Return where a key is in the file that an argument names, as ``"file.json, line 3: "``; "" for a dict.

    Args:
        value: The argument, as for ``read_object``.
        key: A key of the object, at any depth.
    """
    if not isinstance(value, str | Path) or str(value).strip().startswith("{"):
        return ""
    lines = Path(value).read_text(encoding="utf-8").splitlines()
    number = next((n for n, line in enumerate(lines, start=1) if f'"{key}"' in line), None)
    return f"{value}, line {number}: " if number is not None else f"{value}: "
