"""Whether a saved state is that of the optimizer that is to take it.

torch does not look: it replaces the options of each group by the saved ones, and the next step raises ``KeyError:
'momentum'``. What tells optimizers apart are the names of their options. A newer version of one may have an option more
or less, but not both, so only a state that lacks some and has others is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from raytrainer.checkpoint.names import ARGUMENTS_NAME
from raytrainer.errors import CheckpointError

_OF_ANY = frozenset({"params", "initial_lr", "param_names"})


def check_same_optimizer(directory: Path, state: Mapping[str, Any], optimizer: object, name: str) -> None:
    """Check that a state has the options of an optimizer.

    Args:
        directory: The checkpoint.
        state: A ``state_dict()`` with ``param_groups``, or one that is not checked.
        optimizer: Has ``param_groups`` and ``defaults``, or wraps what has them, or is not checked.
        name: What errors call it.

    Raises:
        CheckpointError: If it lacks options, and has others.
    """
    inner: object = getattr(optimizer, "optimizer", optimizer)
    defaults = cast("Mapping[str, Any]", getattr(inner, "defaults", None) or {})
    saved, own = _options(state.get("param_groups")), _options(getattr(inner, "param_groups", None))
    if not saved or not own:
        return
    missing, extra = sorted(defaults.keys() - saved), sorted(saved - own)
    if not missing or not extra:
        return
    saved_name = saved_optimizer(directory)
    what = f"of optim={saved_name!r}" if saved_name else "of another optimizer"
    advice = f"Set optim={saved_name!r}" if saved_name else "Use the optimizer that it was saved with"
    raise CheckpointError(
        f"{directory} has the state {what}, and this run has {name}: the saved state has the options "
        f"{', '.join(extra)}, and lacks {', '.join(missing)}. {advice} to go on with it; or start from the weights "
        f"alone, with a model that is loaded from {str(directory)!r} and without resume_from_checkpoint."
    )


def _options(groups: object) -> set[str]:
    """The names of options that the groups of an optimizer have."""
    if not isinstance(groups, Sequence):
        return set()
    return {str(key) for group in cast("Sequence[Mapping[str, Any]]", groups) for key in group} - _OF_ANY


def saved_optimizer(directory: Path) -> str | None:
    """What ``optim`` was, if the checkpoint says so."""
    try:
        found: Any = json.loads((directory / ARGUMENTS_NAME).read_text(encoding="utf-8"))
        return str(found["optim"]) if found.get("optim") else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
