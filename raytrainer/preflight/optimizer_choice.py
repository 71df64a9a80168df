"""Whether the optimizer that ``optim`` names can do what the other arguments ask of it.

One function per rule. Everything here is known before there are workers; the optimizer itself is built there. An
optimizer that the user built, or whose class was passed, is not checked.
"""

from __future__ import annotations

from torch import nn

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.backends.choose import names_optimizer, sharding_backend
from raytrainer.errors import ConfigurationError
from raytrainer.optim.catalogue import check_backend, look_up, parse_options, reduces
from raytrainer.optim.target_modules import ALL_LINEAR, target_parameters
from raytrainer.optim.traits import GRAD_NORM, Entry
from raytrainer.preflight.facts import TrainerFacts


def check_optimizer(facts: TrainerFacts) -> None:
    """Check the optimizer of a run, unless the user brings one.

    Raises:
        ConfigurationError: If there is no such optimizer, or it cannot do what the other arguments ask.
    """
    if facts.optimizers[0] is None and facts.optimizer_cls_and_kwargs is None:
        check_choice(facts.args, facts.model)


def check_choice(args: TrainingArguments, model: object) -> None:
    """Check name, options, target modules, accumulation and backend of ``optim``.

    Args:
        args: The arguments, resolved or not.
        model: The user's model; its name, or None, if it is made on the workers.

    Raises:
        ConfigurationError: If there is no such optimizer, or it cannot do what the other arguments ask.
    """
    entry = look_up(args.optim)
    options = parse_options(entry, args.optim_args)
    targets_fit(entry, args, model)
    accumulation_is_supported(entry, args)
    changing_workers_are_supported(entry, args)
    batch_size_search_is_supported(entry, args)
    if entry.traits.updates_in_backward:
        backward_updates_fit(entry.name, args, measures_norm=bool(options.get(GRAD_NORM)))
    backend_is_supported(entry, args)


def targets_fit(entry: Entry, args: TrainingArguments, model: object) -> None:
    """``optim_target_modules`` goes with the optimizers that treat some matrices differently.

    Args:
        entry: The optimizer.
        args: The arguments.
        model: The user's model, in which the target modules are looked up if it is a module.

    Raises:
        ConfigurationError: If modules are missing, mean nothing to the optimizer, or are not in the model.
    """
    targets = args.optim_target_modules or entry.traits.default_targets
    if not entry.traits.takes_target_modules:
        if targets:
            raise ConfigurationError(
                f"optim_target_modules={targets!r} has no meaning for optim={entry.name!r}, which treats all "
                "parameters alike. Leave it out, or use a low-rank optimizer such as galore_adamw."
            )
        return
    if not targets:
        raise ConfigurationError(
            f"optim={entry.name!r} works on chosen matrices, but optim_target_modules names none. Set it to "
            f"{ALL_LINEAR!r}, or to parts of module names such as ['attn', 'mlp']."
        )
    if isinstance(model, nn.Module):
        target_parameters(model, targets)


def accumulation_is_supported(entry: Entry, args: TrainingArguments) -> None:
    """An optimizer that steps during the backward pass has no gradients left to accumulate."""
    if args.gradient_accumulation_steps > 1 and not entry.traits.supports_accumulation:
        raise ConfigurationError(
            f"optim={entry.name!r} updates parameters while gradients are computed, so it cannot accumulate them over "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps}. Set it to 1 and raise "
            "per_device_train_batch_size."
        )


def changing_workers_are_supported(entry: Entry, args: TrainingArguments) -> None:
    """Fewer workers take more micro-batches in a step, and some may take one more than others."""
    if args.is_elastic and reduces(entry, args):
        advice = "Set max_grad_norm" if entry.traits.supports_accumulation else "Choose another optimizer"
        raise ConfigurationError(
            f"num_workers={args.num_workers!r} lets the number of workers change, and then some have more "
            f"micro-batches in a step than others, but optim={entry.name!r} exchanges gradients of its own between all "
            f"of them. {advice}, or give one number."
        )


def batch_size_search_is_supported(entry: Entry, args: TrainingArguments) -> None:
    """``auto_find_batch_size`` splits a batch that does not fit, and one worker may do so while others do not."""
    if not args.auto_find_batch_size:
        return
    if not entry.traits.supports_accumulation:
        raise ConfigurationError(
            f"auto_find_batch_size=True splits a batch into more micro-batches when memory runs out, but "
            f"optim={entry.name!r} cannot accumulate their gradients. Set per_device_train_batch_size to what fits."
        )
    if entry.traits.can_reduce:
        raise ConfigurationError(
            f"auto_find_batch_size=True needs steps in which workers do not wait for each other, but "
            f"optim={entry.name!r} exchanges projected gradients during a step. Set per_device_train_batch_size to "
            "what fits."
        )


def backend_is_supported(entry: Entry, args: TrainingArguments) -> None:
    """The optimizer must be able to step what a backend that shards leaves on a rank."""
    backend = sharding_backend(args)
    if backend is not None and not names_optimizer(args):
        check_backend(entry, backend)


def backward_updates_fit(name: str, args: TrainingArguments, *, measures_norm: bool) -> None:
    """Check that nothing needs all gradients at once.

    Args:
        name: The optimizer's.
        args: The arguments.
        measures_norm: A separate backward pass measures the norm of all gradients before the one that updates.

    Raises:
        ConfigurationError: If something does.
    """
    if measures_norm:
        _norm_can_be_measured(name, args)
    # The default counts as not asked for: transformers sets it for everybody, and it never did anything here.
    elif args.max_grad_norm not in (0, TrainingArguments.max_grad_norm):
        raise ConfigurationError(
            f"optim={name!r} updates parameters while gradients are computed, so their norm is unknown when they are "
            f"used, and max_grad_norm={args.max_grad_norm} cannot clip it. Set it to 0, and lower learning_rate if "
            "need be; or set optim_args='grad_norm=true', which runs an extra backward pass that only measures the "
            "norm."
        )
    if args.zero is not None and args.mixed_precision != "no":
        raise ConfigurationError(
            f"optim={name!r} steps the weights of ZeRO's engine directly, and these are {args.mixed_precision} "
            "without an fp32 copy. Leave bf16 and fp16 out, or use fsdp=True, which keeps fp32 weights."
        )
    if args.mixed_precision == "fp16":
        raise ConfigurationError(
            f"optim={name!r} updates parameters while gradients are computed, before fp16's loss scaling can look for "
            "an overflow. Use bf16=True."
        )


def _norm_can_be_measured(name: str, args: TrainingArguments) -> None:
    if args.max_grad_norm <= 0:
        raise ConfigurationError(
            f"optim_args='grad_norm=true' of optim={name!r} measures a norm to clip by, but max_grad_norm="
            f"{args.max_grad_norm} clips nothing. Set max_grad_norm above 0, or leave grad_norm out."
        )
    if args.zero is not None:
        raise ConfigurationError(
            f"optim_args='grad_norm=true' of optim={name!r} runs two backward passes through one forward pass, but "
            "ZeRO frees the weights after the first. Use fsdp=True, or leave grad_norm out."
        )
