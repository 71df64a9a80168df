"""Which packages a machine of a cluster has, asked with Python's own library alone.

The function travels by value, so that a machine answers on which nothing of ours is installed.
"""

from __future__ import annotations


def packages_there(names: list[str]) -> dict[str, str | None]:
    """Look for packages.

    Args:
        names: Of distributions.

    Returns:
        Name -> version, None where there is none; "python" -> where the interpreter is.
    """
    import importlib.metadata
    import sys

    found: dict[str, str | None] = {"python": sys.executable}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
