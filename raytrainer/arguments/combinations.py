"""Arguments that contradict each other.

The rules are those of ``transformers.TrainingArguments``, with messages that say what to do, and those that only a
trainer with workers on other machines needs. One function per rule. Nothing here looks at a device, so a driver without
a GPU may ask for bf16 on workers with GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


def check_combinations(args: TrainingArguments) -> None:
    """Check strategies, intervals and precisions against each other.

    Args:
        args: Training arguments whose enums are converted.

    Raises:
        ConfigurationError: For the first contradiction.
    """
    for rule in _RULES:
        rule(args)


def check_placement(args: TrainingArguments) -> None:
    """Check requests about devices and sharding against each other.

    Args:
        args: Training arguments that were normalized.

    Raises:
        ConfigurationError: For the first contradiction.
    """
    for rule in _PLACEMENT_RULES:
        rule(args)


def intervals_are_steps(args: TrainingArguments) -> None:
    """An interval is a whole number of steps, or a fraction of all steps."""
    for kind, strategy in (
        ("logging", args.logging_strategy),
        ("eval", args.eval_strategy),
        ("save", args.save_strategy),
    ):
        if strategy not in (IntervalStrategy.STEPS, SaveStrategy.STEPS):
            continue
        steps = getattr(args, f"{kind}_steps")
        if kind != "eval" and not steps:
            raise ConfigurationError(
                f"{kind}_strategy='steps' needs an interval above 0, but {kind}_steps={steps!r}. "
                f"Set {kind}_steps, or {kind}_strategy='no'."
            )
        if steps is not None and steps > 1 and steps != int(steps):
            raise ConfigurationError(
                f"{kind}_steps={steps!r} is neither a whole number of steps nor a fraction below 1. Round it."
            )


def evaluation_has_an_interval(args: TrainingArguments) -> None:
    """Evaluation in steps needs an interval, its own or that of logging."""
    if args.eval_strategy == IntervalStrategy.STEPS and not args.eval_steps and not args.logging_steps:
        raise ConfigurationError(
            f"eval_strategy='steps' needs an interval, but eval_steps={args.eval_steps!r} and "
            f"logging_steps={args.logging_steps!r}. Set eval_steps."
        )


def best_model_has_its_checkpoint(args: TrainingArguments) -> None:
    """The best evaluation must coincide with a checkpoint, or its weights are lost."""
    if not args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST:
        return
    eval_strategy, save_strategy = (
        IntervalStrategy(args.eval_strategy).value,
        SaveStrategy(args.save_strategy).value,
    )
    if eval_strategy != save_strategy:
        raise ConfigurationError(
            f"load_best_model_at_end=True needs a checkpoint at each evaluation, but "
            f"eval_strategy={eval_strategy!r} and save_strategy={save_strategy!r} differ. Set both to "
            "the same value, or save_strategy='best'."
        )
    eval_steps = args.eval_steps or args.logging_steps
    if eval_strategy == "steps" and not _is_multiple(args.save_steps, eval_steps):
        raise ConfigurationError(
            f"load_best_model_at_end=True needs save_steps to be a multiple of eval_steps (both in steps, "
            f"or both as a fraction below 1), but found save_steps={args.save_steps} and eval_steps={eval_steps}. "
            "Set save_steps to eval_steps, or save_strategy='best'."
        )


def _is_multiple(steps: float, of: float) -> bool:
    if steps % of == 0:
        return True
    if steps >= 1 or of >= 1:
        return False
    # These are decimal fractions: 0.6 % 0.2 is not 0 in binary.
    scale = 1_000_000
    return round(steps * scale) % round(of * scale) == 0


def best_strategy_has_a_metric(args: TrainingArguments) -> None:
    """``save_strategy="best"`` compares evaluations."""
    if args.save_strategy != SaveStrategy.BEST:
        return
    if args.metric_for_best_model is None:
        raise ConfigurationError(
            "save_strategy='best' saves when a metric improves, but metric_for_best_model names none. Set "
            "it, for instance to 'loss' or to a key that your compute_metrics returns."
        )
    if args.eval_strategy == IntervalStrategy.NO:
        raise ConfigurationError(
            "save_strategy='best' saves when an evaluation improves, but eval_strategy='no' never "
            "evaluates, so nothing would be saved. Set eval_strategy to 'steps' or 'epoch'."
        )


def precisions_exclude_each_other(args: TrainingArguments) -> None:
    """A run computes in one precision."""
    for one, other in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if getattr(args, one) and getattr(args, other):
            raise ConfigurationError(
                f"{one}=True and {other}=True exclude each other. Keep one; bf16 needs no loss scale."
            )


def precision_fits_the_requested_device(args: TrainingArguments) -> None:
    """Refuse what a CPU cannot do as soon as it is certain that the workers run on CPUs."""
    on_cpu = "use_cpu=True" if args.use_cpu else "use_gpu=False" if args.use_gpu is False else None
    if on_cpu is None:
        return
    if args.fp16:
        raise ConfigurationError(
            f"fp16=True with {on_cpu}: fp16 training needs a GPU; on a CPU it would silently be fp32. Use "
            "bf16=True, or train on GPUs."
        )
    if args.tf32:
        raise ConfigurationError(
            f"tf32=True with {on_cpu}: only GPUs have TF32. Leave tf32 out, or train on GPUs."
        )
    if args.ddp_backend == "nccl":
        raise ConfigurationError(f"ddp_backend='nccl' with {on_cpu}: NCCL needs GPUs. Leave ddp_backend out.")


def schedule_sees_metrics(args: TrainingArguments) -> None:
    """A schedule that follows a metric needs evaluations."""
    follows = args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
    if follows and args.eval_strategy == IntervalStrategy.NO:
        raise ConfigurationError(
            f"lr_scheduler_type={SchedulerType(args.lr_scheduler_type).value!r} follows an evaluation metric, but "
            "eval_strategy='no' never evaluates. Set eval_strategy to 'steps' or 'epoch'."
        )


def prefetching_has_processes(args: TrainingArguments) -> None:
    """Prefetching and keeping loaders alive need loader processes."""
    if args.dataloader_num_workers > 0:
        return
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if getattr(args, name):
            raise ConfigurationError(
                f"{name}={getattr(args, name)!r} configures the processes that load data, but "
                f"dataloader_num_workers=0 starts none. Set dataloader_num_workers to 1 or more, or leave {name} out."
            )


def devices_agree(args: TrainingArguments) -> None:
    """Workers run on CPUs or on GPUs."""
    if not args.use_cpu:
        return
    if args.use_gpu:
        raise ConfigurationError("use_cpu=True and use_gpu=True exclude each other. Keep one of them.")
    gpus = args.resources_per_worker.get("GPU", 0) if isinstance(args.resources_per_worker, Mapping) else 0
    if gpus:
        raise ConfigurationError(
            f"use_cpu=True and resources_per_worker={args.resources_per_worker!r} contradict each other: "
            f"{gpus:g} GPU per worker would be reserved but not used. Leave one of the two out."
        )


def batch_size_search_needs_whole_models(args: TrainingArguments) -> None:
    """A rank out of memory must not leave others waiting in a collective, and sharding has several per layer."""
    if args.auto_find_batch_size and args.sharded_by is not None:
        raise ConfigurationError(
            "auto_find_batch_size=True starts over when a worker runs out of memory, but with "
            f"{args.sharded_by} the other workers would keep waiting for it inside the model. Set "
            "per_device_train_batch_size and gradient_accumulation_steps to sizes that fit."
        )


def merged_saves_belong_to_no_evaluation(args: TrainingArguments) -> None:
    """The best checkpoint has the weights that were evaluated; a merged save has those of a later step."""
    if args.async_save_overlap != "merge":
        return
    of_evaluation = "load_best_model_at_end=True" if args.load_best_model_at_end else "save_strategy='best'"
    if args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST:
        raise ConfigurationError(
            "async_save_overlap='merge' saves the state of a later step where the save before is still being written, "
            f"but {of_evaluation} needs the weights of the step that was evaluated. Set async_save_overlap='wait'."
        )
    if not args.async_save:
        raise ConfigurationError(
            "async_save_overlap='merge' needs saves that are written beside training whatever their size, and "
            f"async_save={args.async_save} does not ask for that. Set async_save=True too."
        )


def saves_beside_training_have_memory(args: TrainingArguments) -> None:
    """The copy of what is written beside training is in anonymous memory of Linux."""
    if args.async_save and not hasattr(os, "memfd_create"):
        raise ConfigurationError(
            "async_save=True keeps the copy of a save in anonymous memory, which this system does not have; Linux has "
            "it. Set async_save=False."
        )


_RULES: tuple[Callable[[Any], None], ...] = (
    intervals_are_steps,
    best_model_has_its_checkpoint,
    best_strategy_has_a_metric,
    precisions_exclude_each_other,
    schedule_sees_metrics,
    prefetching_has_processes,
    saves_beside_training_have_memory,
    merged_saves_belong_to_no_evaluation,
)
"""Rules that hold before transformers has normalized everything: it asserts some of them itself."""
_PLACEMENT_RULES: tuple[Callable[[Any], None], ...] = (
    precision_fits_the_requested_device,
    devices_agree,
    batch_size_search_needs_whole_models,
)
"""Rules about arguments that are hidden from transformers while it normalizes, since it would look for hardware."""


def check_environment(environment: Mapping[str, str] | None = None) -> None:
    """Refuse what ``accelerate launch`` asks for through the environment and is not available here.

    Args:
        environment: The variables; those of this process by default.

    Raises:
        ConfigurationError: If a variable turns on something that would not take effect.
    """
    values = os.environ if environment is None else environment
    for name, what in (
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ):
        if values.get(name, "").lower() in ("1", "true", "yes", "y", "on", "t"):
            raise ConfigurationError(
                f"The environment asks for {what} ({name}={values[name]}), which is not available in this "
                "version of raytrainer; the run would be plain data parallel. Unset the variable, or "
                "launch without that option."
            )
    if values.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise ConfigurationError(
            f"The environment asks for a compiled model (ACCELERATE_DYNAMO_BACKEND="
            f"{values['ACCELERATE_DYNAMO_BACKEND']!r}). Unset it, and set torch_compile_backend in TrainingArguments."
        )
    if values.get("ACCELERATE_MIXED_PRECISION", "no") not in ("no", "bf16", "fp16"):
        raise ConfigurationError(
            f"ACCELERATE_MIXED_PRECISION={values['ACCELERATE_MIXED_PRECISION']!r} is not available in this "
            "version of raytrainer, which trains in fp32 ('no'), bf16 and fp16. Set it to one of these."
        )
