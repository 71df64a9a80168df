"""Where a worker looks for modules: where the driver finds them.

A worker finds what is installed. It does not find the directories that a program or a library added to ``sys.path``:
those in which ``evaluate``, ``datasets`` and ``transformers`` keep code that they made or downloaded, or
``sys.path.insert(0, "../src")``. The driver's entries go along, in the driver's order around the installed packages,
which stay those of the worker's own environment.
"""

from __future__ import annotations

import functools
import importlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPath:
    """The entries of ``sys.path`` that are not installed packages, absolute."""

    before: tuple[str, ...] = ()
    """Those that come before installed packages."""
    after: tuple[str, ...] = ()
    """Those that come after them."""


def search_path(more: Iterable[str] = ()) -> SearchPath:
    """The search path of this process.

    Args:
        more: Further directories, to be searched last.
    """
    before: list[str] = []
    after: list[str] = []
    entries = before
    for entry in sys.path:
        if is_installed(entry):
            entries = after
        elif os.path.exists(path := os.path.abspath(entry)):  # "" is the working directory
            entries.append(path)
    after += more
    return SearchPath(before=tuple(dict.fromkeys(before)), after=tuple(dict.fromkeys(after)))


def extend_search_path(path: SearchPath, copies: Mapping[str, str] | None = None) -> None:
    """Let this process find what another one finds.

    Args:
        path: The other process's search path. Entries that do not exist here are left out.
        copies: Directory of the other process -> its copy here, which is searched first.
    """
    known = copies or {}

    def here(entries: tuple[str, ...]) -> list[str]:
        return [
            place
            for entry in entries
            for place in (known.get(entry), entry)
            if place is not None and os.path.exists(place)
        ]

    # A module that was loaded from elsewhere may be imported later on.
    loaded = [root for root in known if root not in path.before and root not in path.after]
    before, after = here(path.before), here((*path.after, *loaded))
    own = [entry for entry in sys.path if entry not in before and entry not in after]
    changed = [*before, *own, *after]
    if changed != sys.path:
        sys.path[:] = changed
        importlib.invalidate_caches()


def is_installed(path: str) -> bool:
    """Whether a file or directory belongs to the standard library or to the installed packages."""
    return any(
        place == installed or place.startswith(installed + os.sep)
        for place in (path, os.path.realpath(path))
        for installed in _installed_places()
    )


@functools.cache
def _installed_places() -> tuple[str, ...]:
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places.update(site.getsitepackages(), [site.getusersitepackages()])
    places |= {os.path.realpath(place) for place in places}
    return tuple(sorted(place for place in places if place))
