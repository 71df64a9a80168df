"""What a user may ask a Trainer about its run: batch, lengths, sizes of meshes, the optimizer that ``optim`` names.

The loop calls none of them: it has a plan (``loop.plan``), and the catalogue builds optimizers. So an override has no
effect, and a warning says so (``preflight.unsupported_methods``). The exception is ``get_optimizer_cls_and_kwargs``,
whose override decides which optimizer is built (``hooks.optimizer``).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.data import DataLoader

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError
from raytrainer.loop.run_setup import plan_of
from raytrainer.optim.catalogue import build, look_up, parse_options
from raytrainer.optim.traits import OptimizerRequest
from raytrainer.trainer_protocol import TrainerParts


class Queries(TrainerParts):
    """Methods of ``transformers.Trainer`` that describe a run and that nothing here calls."""

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Samples of one optimizer step over all ranks."""
        return args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    def get_tp_size(self) -> int:
        """Ranks that share a tensor; always 1."""
        return 1

    def get_cp_size(self) -> int:
        """Ranks that share a sequence by context parallelism; always 1."""
        return 1

    def get_sp_size(self) -> int:
        """Ranks that share a sequence by sequence parallelism; always 1."""
        return 1

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader[Any]
    ) -> tuple[Any, ...]:
        """The lengths of a run over a loader.

        Args:
            args: Those of this trainer.
            dataloader: What ``get_train_dataloader`` gives.

        Returns:
            Epochs, steps of an epoch, examples, samples of the run, samples of a step over all ranks, micro-batches
            of an epoch on one rank, steps of the run.
        """
        plan = plan_of(self, dataloader)
        return (
            plan.num_epochs,
            plan.steps_per_epoch,
            plan.num_examples,
            plan.num_train_samples,
            plan.global_batch_size,
            plan.micro_batches_per_epoch,
            plan.max_steps,
        )

    @staticmethod
    def get_optimizer_cls_and_kwargs(
        args: TrainingArguments, model: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """What makes the optimizer that ``optim`` names, and its keywords.

        Args:
            args: Say which optimizer, its options and its learning rate.
            model: Not needed.

        Returns:
            A function ``(groups, **keywords) -> optimizer``, and the keywords ``lr``, ``betas`` and ``eps``.

        Raises:
            ConfigurationError: If the optimizer needs the model, or a loop that knows of it.
        """
        entry = look_up(args.optim)
        if entry.traits.takes_target_modules or entry.traits.updates_in_backward:
            raise ConfigurationError(
                f"optim={entry.name!r} cannot be returned as a class that takes parameters: it must know which of them "
                "are projected, or steps in the backward pass. Call `create_optimizer` instead."
            )
        options = parse_options(entry, args.optim_args)

        def make(groups: Any, *, lr: float, betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
            given = list(groups)
            request = OptimizerRequest(
                groups=given if isinstance(given[0], dict) else [{"params": given}],
                learning_rate=lr,
                adam_betas=betas,
                adam_epsilon=eps,
                options=options,
                warmup_steps=args.warmup_steps,
            )
            return build(entry, request)

        keywords = {
            "lr": args.learning_rate,
            "betas": (args.adam_beta1, args.adam_beta2),
            "eps": args.adam_epsilon,
        }
        return functools.update_wrapper(make, entry.build), keywords
