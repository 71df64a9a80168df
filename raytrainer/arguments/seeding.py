"""When and how a process is seeded: by the constructor of a trainer, and on a Ray worker before it sets the trainer up.

The constructor seeds because that of transformers does: weights that a script makes after it, or a split that it draws,
depend on it. In one process and under a launcher nothing is seeded again before the first step, so that what the script
draws in between counts there too. A Ray worker starts from the seed, whatever its driver drew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.trainer_utils import enable_full_determinism, set_seed

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


def seed_process(args: TrainingArguments) -> None:
    """Seed Python, numpy and torch with ``seed``, the same on all ranks; touches no device."""
    if args.full_determinism:
        enable_full_determinism(args.seed)
    else:
        set_seed(args.seed)


def data_seed(args: TrainingArguments) -> int:
    """The seed of the order of the samples."""
    return args.data_seed if args.data_seed is not None else args.seed
