"""The one table of optimizers: name -> how to build it and what it needs.

Each file in ``families`` adds rows; nothing else in the package knows an optimizer by name. Users add rows with
``register_optimizer``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from raytrainer.arguments.accelerator_config import syncs_each_batch
from raytrainer.arguments.optimizer_names import OPTIMIZERS
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError, MissingPackageError
from raytrainer.layout import rows
from raytrainer.optim.composition.stepped_by_owner import SteppedByOwner
from raytrainer.optim.families import apollo, bitsandbytes, galore, grok, lomo, muon, packaged
from raytrainer.optim.families import torch as torch_family
from raytrainer.optim.optim_args import parse_options as parse_text
from raytrainer.optim.traits import WHOLE_PARAMETERS, Entry, OptimizerRequest, Traits
from raytrainer.suggestions import nearest

_FAMILIES = (torch_family, bitsandbytes, packaged, galore, lomo, apollo, grok, muon)
_CATALOGUE: dict[str, Entry] = {entry.name: entry for family in _FAMILIES for entry in family.ENTRIES}
REFUSED = {
    "adamw_torch_xla": "TPUs are not available; adamw_torch_fused does the same on CPU and GPU",
    "adamw_torch_npu_fused": "NPUs are not available; adamw_torch_fused does the same on CPU and GPU",
    "adamw_anyprecision": (
        "its package torchdistx is no longer maintained; adamw_torch under bf16=True has fp32 state"
    ),
}
"""Names of transformers that are not available, with the reason and what to use instead."""


def names() -> list[str]:
    """Every value that ``optim`` may have, sorted."""
    return sorted(_CATALOGUE)


def entries() -> list[Entry]:
    """All rows, sorted by name."""
    return [_CATALOGUE[name] for name in names()]


def register_optimizer(
    name: str,
    build: Callable[[OptimizerRequest], torch.optim.Optimizer],
    *,
    traits: Traits | None = None,
    options: Mapping[str, type] | None = None,
    package: str | None = None,
) -> None:
    """Add an optimizer to the catalogue, for ``optim=name``.

    It is registered in the process that makes this call. A script whose Trainer runs on Ray makes the call in a module
    that the workers import too, such as the one that defines ``build``.

    Args:
        name: The value of ``optim``.
        build: Makes the optimizer from parameter groups and a learning rate.
        traits: What it needs; by default it trains whole parameters, in one process and under DDP.
        options: Keys that ``optim_args`` may hold, with their types.
        package: The pip requirement to name when an import fails.

    Raises:
        ConfigurationError: If the name is taken.
    """
    if name in _CATALOGUE or name in REFUSED:
        raise ConfigurationError(f"The optimizer catalogue already has {name!r}. Choose another name.")
    OPTIMIZERS.add(name)
    _CATALOGUE[name] = Entry(
        name=name,
        family="registered",
        build=build,
        traits=traits or Traits(backends=WHOLE_PARAMETERS, why_not="it was registered for whole parameters"),
        options=dict(options or {}),
        package=package,
    )


def look_up(name: str) -> Entry:
    """Return the entry of an optimizer.

    Raises:
        ConfigurationError: If the catalogue has no such name, or refuses it.
    """
    wanted = str(getattr(name, "value", name))
    entry = _CATALOGUE.get(wanted)
    if entry is None and wanted in REFUSED:
        raise ConfigurationError(f"optim={wanted!r} is not available: {REFUSED[wanted]}.")
    if entry is None:
        near = nearest(wanted, names(), cutoff=0.3) or names()
        raise ConfigurationError(
            f"optim={wanted!r} is not in the optimizer catalogue of this version, which has {names()}. "
            f"Use one of them (closest: {near}), or pass `optimizers=(optimizer, scheduler)` or "
            "`optimizer_cls_and_kwargs=` to the Trainer."
        )
    return entry


def check_backend(entry: Entry, backend: str) -> None:
    """Check that an optimizer trains under a backend.

    Raises:
        ConfigurationError: If it does not.
    """
    if backend not in entry.traits.backends:
        raise ConfigurationError(
            f"optim={entry.name!r} does not train under {backend}: {entry.traits.why_not}. Use one of the backends "
            f"{', '.join(sorted(entry.traits.backends))}, or optim='adamw_torch', which trains under all of them."
        )


def reduces(entry: Entry, args: TrainingArguments) -> bool:
    """Whether an optimizer averages gradients over ranks itself.

    One that updates in the backward pass always does. One that sends less than whole gradients does, unless whole
    averaged gradients are needed: to clip their norm, for the loss scaling of fp16, or because the user asked for
    synchronization after each micro-batch.
    """
    is_unclipped = args.max_grad_norm <= 0 and args.mixed_precision != "fp16"
    may_reduce = is_unclipped and not syncs_each_batch(args)
    return entry.traits.updates_in_backward or (entry.traits.can_reduce and may_reduce)


def parse_options(entry: Entry, optim_args: str | None) -> dict[str, Any]:
    """Parse ``optim_args`` with the types that an entry declares.

    Raises:
        ConfigurationError: As ``optim_args.parse_options``.
    """
    return parse_text(entry.name, entry.options, optim_args)


def build(entry: Entry, request: OptimizerRequest) -> torch.optim.Optimizer:
    """Build the optimizer of an entry.

    Raises:
        ConfigurationError: If its package is not installed.
    """
    try:
        has_sharded = any(
            rows.is_row_sharded(parameter) for group in request.groups for parameter in group["params"]
        )
        if not entry.traits.steps_whole or not has_sharded:
            return entry.build(request)
        groups = [{"lr": request.learning_rate, **group} for group in request.groups]
        return SteppedByOwner(groups, lambda inner: entry.build(dataclasses.replace(request, groups=inner)))
    except ImportError as error:
        if entry.package is None:
            raise
        raise MissingPackageError(
            f"optim={entry.name!r} needs a package that is not installed ({error}). Run: pip install {entry.package!r}"
        ) from error
