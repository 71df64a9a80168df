"""The catalogue's row of Muon."""

from __future__ import annotations

import torch

from raytrainer.errors import ConfigurationError
from raytrainer.optim.algorithms.muon import MuonWithAdamW
from raytrainer.optim.target_modules import HIDDEN_LINEAR
from raytrainer.optim.traits import WHOLE_OR_ROWS, Entry, OptimizerRequest, Traits

_SCALES = ("match_rms_adamw", "original")
_OPTIONS = {"momentum": float, "nesterov": bool, "ns_steps": int, "adjust_lr_fn": str, "adam_lr": float}


def build_muon(request: OptimizerRequest) -> torch.optim.Optimizer:
    """Muon for hidden matrices, with AdamW for the rest; ``adam_lr`` is the latter's rate, by default the same."""
    options = dict(request.options)
    adam_lr = options.pop("adam_lr", request.learning_rate)
    scale = options.setdefault("adjust_lr_fn", _SCALES[0])
    if scale not in _SCALES:
        raise ConfigurationError(
            f"optim_args adjust_lr_fn={scale} is not available. There are: {', '.join(_SCALES)}."
        )
    if not 1 <= options.get("ns_steps", 1) < 100:
        raise ConfigurationError(f"optim_args ns_steps={options['ns_steps']} must be from 1 to 99.")
    groups = [
        {"lr": request.learning_rate if group.get("is_target") else adam_lr, **group}
        for group in request.groups
    ]
    return MuonWithAdamW(groups, betas=request.adam_betas, eps=request.adam_epsilon, **options)


ENTRIES = (
    Entry(
        name="muon",
        family="muon",
        build=build_muon,
        options=_OPTIONS,
        traits=Traits(
            takes_target_modules=True,
            default_targets=HIDDEN_LINEAR,
            backends=WHOLE_OR_ROWS,
            why_not="it orthogonalizes whole matrices, and ZeRO shards parameters as flat runs",
        ),
        state="1 x fp32 of hidden matrices, 2 x fp32 of others",
        paper="2502.16982",
    ),
)
