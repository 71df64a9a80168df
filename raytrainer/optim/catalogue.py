"""The one table of optimizers: name -> how it is built and what it demands.

A family file adds rows; nothing else in the package names an optimizer.
"""

from __future__ import annotations

import difflib

import torch

from raytrainer.errors import ConfigurationError
from raytrainer.optim import torch_family
from raytrainer.optim.traits import Entry, OptimizerRequest

_CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in torch_family.ENTRIES}


def names() -> list[str]:
    """Every value that ``optim`` may take."""
    return sorted(_CATALOGUE)


def look_up(name: str) -> Entry:
    """Return the entry of an optimizer.

    Raises:
        ConfigurationError: If the catalogue has no such name.
    """
    entry = _CATALOGUE.get(str(getattr(name, "value", name)))
    if entry is None:
        wanted = str(getattr(name, "value", name))
        near = difflib.get_close_matches(wanted, names(), n=3, cutoff=0.3) or names()
        raise ConfigurationError(
            f"optim={wanted!r} is not in the optimizer catalogue of this version, which has {names()}. "
            f"Take one of them (near: {near}), or pass `optimizers=(optimizer, scheduler)` or "
            "`optimizer_cls_and_kwargs=` to the Trainer."
        )
    return entry


def parse_options(entry: Entry, optim_args: str | None) -> dict[str, str]:
    """Parse ``optim_args`` (``"key=value, key=value"``) and check its keys against the entry.

    Raises:
        ConfigurationError: For a malformed string, or a key that this optimizer does not take.
    """
    options: dict[str, str] = {}
    for part in (optim_args or "").split(","):
        if not part.strip():
            continue
        key, separator, value = part.partition("=")
        if not separator:
            raise ConfigurationError(
                f"optim_args={optim_args!r} has the part {part.strip()!r}, which is no `key=value`. "
                'Write it as in "momentum=0.9, nesterov=true".'
            )
        options[key.strip()] = value.strip()
    unknown = sorted(set(options) - entry.option_names)
    if unknown:
        known = sorted(entry.option_names) or "no options at all"
        raise ConfigurationError(
            f"optim_args has {unknown}, which optim={entry.name!r} does not take; it takes {known}. "
            "Correct the names, or remove them."
        )
    return options


def build(entry: Entry, request: OptimizerRequest) -> torch.optim.Optimizer:
    """Build the optimizer of an entry.

    Raises:
        ConfigurationError: If its package is not installed.
    """
    try:
        return entry.build(request)
    except ImportError as error:
        if entry.package is None:
            raise
        raise ConfigurationError(
            f"optim={entry.name!r} needs a package that is not installed ({error}). Run: pip install {entry.package!r}"
        ) from error
