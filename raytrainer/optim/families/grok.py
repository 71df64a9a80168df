"""The catalogue's row of GrokAdamW."""

from __future__ import annotations

import torch

from raytrainer.optim.algorithms.grok import DEFAULTS, GrokAdamW
from raytrainer.optim.traits import WHOLE_OR_ROWS, Entry, OptimizerRequest, Traits


def build_grokadamw(request: OptimizerRequest) -> torch.optim.Optimizer:
    """GrokAdamW, with the defaults of its author's package."""
    groups = [{"lr": request.learning_rate, **group} for group in request.groups]
    return GrokAdamW(groups, betas=request.adam_betas, eps=request.adam_epsilon, **request.options)


ENTRIES = (
    Entry(
        name="grokadamw",
        family="grok",
        build=build_grokadamw,
        options=dict.fromkeys(DEFAULTS, float),
        traits=Traits(
            backends=WHOLE_OR_ROWS,
            why_not="it clips by the norm of each parameter, and ZeRO shards parameters as flat runs",
        ),
        state="3 x fp32",
        paper="2405.20233",
    ),
)
