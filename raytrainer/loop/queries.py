"""What a user may ask a Trainer about its run: batch, lengths, sizes of meshes, the optimizer that ``optim`` names.

The loop calls none of them: it has a plan (``loop.plan``), and the catalogue builds optimizers. An override of the
lengths would have no effect and is refused (``preflight.unsupported_methods``). An override of
``get_optimizer_cls_and_kwargs`` is called instead of the catalogue.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import trainer_optimizer as theirs

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError, MissingPackageError
from raytrainer.loop.run_setup import plan_of
from raytrainer.optim.catalogue import Entry, build, look_up, parse_options
from raytrainer.optim.traits import OptimizerRequest
from raytrainer.trainer_protocol import TrainerParts


class Queries(TrainerParts):
    """Methods of ``transformers.Trainer`` that describe a run."""

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Samples of one optimizer step over all ranks."""
        ranks = args.max_workers if args.is_elastic and args.max_workers is not None else args.world_size
        return args.train_batch_size * args.gradient_accumulation_steps * ranks

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
        """The class that ``optim`` names, and its keywords, as transformers says; an override builds the optimizer.

        Args:
            args: Say which optimizer, its options and its learning rate.
            model: Needed for optimizers that must know which parameters they project, or that step in the backward
                pass.

        Returns:
            A class that is called with parameters or groups of them; the keywords may have groups of their own
            (``params``, ``model``, ``optimizer_dict``). For a few names, a class that makes a function
            ``(model, **keywords) -> optimizer``.

        Raises:
            MissingPackageError: If its package is not installed.
            ConfigurationError: If the model is needed and was not given, or the loop must know of the optimizer.
        """
        entry = look_up(args.optim)
        handler = theirs._OPTIMIZER_HANDLERS.get(cast("Any", entry.name))
        if handler is None:
            return _own_class(entry, args)
        context = theirs.OptimizerContext(
            args=args,
            model=model,
            optimizer_kwargs={"lr": args.learning_rate},
            adam_kwargs={"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon},
            optim_args=theirs._parse_optim_args(args.optim_args),
        )
        try:
            return handler(context)
        except ImportError as error:
            raise MissingPackageError(_install(entry, error)) from error
        except (ValueError, TypeError) as error:
            if "install" in str(error) or "failed to import" in str(error):
                raise MissingPackageError(_install(entry, error)) from error
            raise ConfigurationError(f"optim={entry.name!r}: {error}") from error


def _install(entry: Entry, error: Exception) -> str:
    what = f"Run: pip install {entry.package!r}" if entry.package else "Install it, or use another optimizer."
    return f"optim={entry.name!r} needs a package that is not installed ({error}). {what}"


def _own_class(entry: Entry, args: TrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The same for an optimizer that transformers does not have: a class whose call builds it from the catalogue."""
    if entry.traits.takes_target_modules or entry.traits.updates_in_backward:
        raise ConfigurationError(
            f"optim={entry.name!r} cannot be returned as a class that takes parameters: it must know which of them "
            "are projected, or steps in the backward pass. Call `create_optimizer` instead."
        )
    options = parse_options(entry, args.optim_args)

    def make(
        cls: type, params: Any, *, lr: float, betas: tuple[float, float], eps: float
    ) -> torch.optim.Optimizer:
        given = list(params)
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
    return type(entry.name, (torch.optim.Optimizer,), {"__new__": make}), keywords
