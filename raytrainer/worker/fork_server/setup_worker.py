"""Stands where Ray sets a worker's runtime environment up, without importing Ray for that.

    python setup_worker.py default_worker.py --its-arguments --serialized-runtime-env-context={...} --language=PYTHON

Run as a file. Ray recognizes the script by the name of this file. What is not a plain start of Python with variables is
left to Ray's own script.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from typing import Any

CONTEXT = "--serialized-runtime-env-context="
LANGUAGE = "--language="


def command(arguments: list[str], environment: dict[str, str]) -> tuple[list[str], dict[str, str]] | None:
    """What the worker is started with.

    Args:
        arguments: Those of this script.
        environment: The variables of this process.

    Returns:
        The command and its variables; None if Ray's own script must start it.
    """
    context: dict[str, Any] = {}
    rest: list[str] = []
    for argument in arguments:
        if argument.startswith(CONTEXT):
            context = json.loads(argument.removeprefix(CONTEXT))
        elif argument.startswith(LANGUAGE):
            if argument != LANGUAGE + "PYTHON":
                return None
        else:
            rest.append(argument)
    variables: dict[str, str] = context.pop("env_vars", None) or {}
    python = shlex.split(context.pop("py_executable", None) or "")
    if not python or not rest or any(context.values()):
        return None
    environment = dict(environment)
    for name, value in variables.items():
        environment[name] = _expanded(value, environment)
    return [*python, *rest], environment


def _expanded(value: str, environment: dict[str, str]) -> str:
    """A value with the variables that it names; ``${NAME}`` of one that is not there is nothing."""

    def of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        is_missing = name not in environment
        return "" if is_missing and match[2] and name.isupper() else environment.get(name, match[0])

    return re.sub(r"\$(?:(\w+)|\{([^}]*)\})", of, value, flags=re.ASCII)


def main() -> None:
    """Become the worker."""
    found = command(sys.argv[1:], dict(os.environ))
    if found is None:
        # It lies beside the worker's script.
        original = os.path.join(os.path.dirname(sys.argv[1]), os.path.basename(__file__))
        os.execv(sys.executable, [sys.executable, original, *sys.argv[1:]])
    os.execvpe(found[0][0], *found)


if __name__ == "__main__":
    main()
