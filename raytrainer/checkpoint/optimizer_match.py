"""Whether a saved state is that of the optimizer that is to take it.

torch does not look: it replaces the options of each group by the saved ones, and the next step raises ``KeyError:
'momentum'``, or takes what another optimizer means by the same name. What tells optimizers apart are the names of their
options, and of the tensors that they keep for a parameter. A newer version of one may have an option more or less, but
not both, so only a state that lacks some and has others is refused. bitsandbytes' Lion has no option that AdamW lacks;
there the tensors decide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from raytrainer.checkpoint.names import ARGUMENTS_NAME
from raytrainer.errors import CheckpointError

_OF_ANY = frozenset({"params", "initial_lr", "param_names"})
_TENSORS = {
    "torch.optim.adam.Adam": {"exp_avg", "exp_avg_sq"},
    "torch.optim.adamw.AdamW": {"exp_avg", "exp_avg_sq"},
    "torch.optim.sgd.SGD": {"momentum_buffer"},
    "bitsandbytes.optim.optimizer.Optimizer1State": {"state1"},
    "bitsandbytes.optim.optimizer.Optimizer2State": {"state1", "state2"},
}
"""Class -> the tensors that it, and what its library derives from it, keeps for a parameter."""
_KNOWN = frozenset[str]().union(*_TENSORS.values())


def check_same_optimizer(directory: Path, state: Mapping[str, Any], optimizer: object, name: str) -> None:
    """Check that a state has the options of an optimizer.

    Args:
        directory: The checkpoint.
        state: A ``state_dict()`` with ``param_groups``, or one that is not checked.
        optimizer: Has ``param_groups`` and ``defaults``, or wraps what has them, or is not checked.
        name: What errors call it.

    Raises:
        CheckpointError: If it lacks options and has others, or has the tensors of another optimizer.
    """
    inner: object = getattr(optimizer, "optimizer", optimizer)
    defaults = cast("Mapping[str, Any]", getattr(inner, "defaults", None) or {})
    saved, own = _options(state.get("param_groups")), _options(getattr(inner, "param_groups", None))
    if not saved or not own:
        return
    missing, extra = sorted(defaults.keys() - saved), sorted(saved - own)
    difference = f"the saved state has the options {', '.join(extra)}, and lacks {', '.join(missing)}"
    if not missing or not extra:
        kept, expected = _tensors(state.get("state")), _tensors_of(inner)
        if not kept or not expected or kept == expected:
            return
        difference = (
            f"for a parameter the saved state has {', '.join(sorted(kept))}, and {name} keeps "
            + ", ".join(sorted(expected))
        )
    saved_name = saved_optimizer(directory)
    what = f"of optim={saved_name!r}" if saved_name else "of another optimizer"
    advice = f"Set optim={saved_name!r}" if saved_name else "Use the optimizer that it was saved with"
    raise CheckpointError(
        f"{directory} has the state {what}, and this run has {name}: {difference}. {advice} to go on with it; or start "
        f"from the weights alone, with a model that is loaded from {str(directory)!r} and without "
        "resume_from_checkpoint."
    )


def _options(groups: object) -> set[str]:
    """The names of options that the groups of an optimizer have."""
    if not isinstance(groups, Sequence):
        return set()
    return {str(key) for group in cast("Sequence[Mapping[str, Any]]", groups) for key in group} - _OF_ANY


def _tensors_of(optimizer: object) -> set[str]:
    """The tensors that an optimizer keeps for a parameter; empty if that is not known, as for one of a user's own."""
    if type(optimizer).__module__.partition(".")[0] not in ("torch", "bitsandbytes"):
        return set()
    bases = (f"{base.__module__}.{base.__qualname__}" for base in type(optimizer).__mro__)
    return next((_TENSORS[base] for base in bases if base in _TENSORS), set[str]())


def _tensors(state: object) -> set[str]:
    """Those of the known tensors that a saved state has; bitsandbytes puts its own into an entry of a parameter's."""
    if not isinstance(state, Mapping):
        return set()
    entries = cast("Mapping[object, object]", state)
    return ({str(name) for name in entries} & _KNOWN).union(*(_tensors(entry) for entry in entries.values()))


def saved_optimizer(directory: Path) -> str | None:
    """What ``optim`` was, if the checkpoint says so."""
    try:
        found: Any = json.loads((directory / ARGUMENTS_NAME).read_text(encoding="utf-8"))
        return str(found["optim"]) if found.get("optim") else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
