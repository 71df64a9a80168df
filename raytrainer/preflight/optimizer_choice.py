"""What can be known of a chosen optimizer before there are any workers."""

from __future__ import annotations

from typing import Any

from torch import nn

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError
from raytrainer.optim.catalogue import check_backend, look_up, parse_options
from raytrainer.optim.target_modules import ALL_LINEAR, target_parameters


def check_choice(args: TrainingArguments, model: Any) -> None:
    """Check name, options, targets and backend.

    Args:
        args: The arguments, resolved or not.
        model: The user's model; its name, or None, if it is made on the workers.

    Raises:
        ConfigurationError: If there is no such optimizer, or it does not do what the other arguments ask.
    """
    entry = look_up(args.optim)
    options = parse_options(entry, args.optim_args)
    targets = args.optim_target_modules or entry.traits.default_targets
    if entry.traits.takes_target_modules and not targets:
        raise ConfigurationError(
            f"optim={entry.name!r} works on chosen matrices, and optim_target_modules names none. Set it to "
            f"{ALL_LINEAR!r}, or to words of module names such as ['attn', 'mlp']."
        )
    if targets and not entry.traits.takes_target_modules:
        raise ConfigurationError(
            f"optim_target_modules={targets!r} means nothing to optim={entry.name!r}, which treats all parameters "
            "alike. Leave it out, or take a low-rank optimizer such as galore_adamw."
        )
    if targets and isinstance(model, nn.Module):
        target_parameters(model, targets)
    if args.gradient_accumulation_steps > 1 and not entry.traits.supports_accumulation:
        raise ConfigurationError(
            f"optim={entry.name!r} updates while gradients are computed, so it cannot add them up over "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps}. Set it to 1 and "
            "per_device_train_batch_size higher."
        )
    if args.auto_find_batch_size and not entry.traits.supports_accumulation:
        raise ConfigurationError(
            f"auto_find_batch_size=True cuts a batch into more micro-batches when memory runs out, and "
            f"optim={entry.name!r} cannot add up their gradients. Set per_device_train_batch_size to what fits."
        )
    if args.auto_find_batch_size and entry.traits.can_reduce:
        raise ConfigurationError(
            f"auto_find_batch_size=True needs steps in which workers do not wait for each other, and those of "
            f"optim={entry.name!r} send projections. Set per_device_train_batch_size to what fits."
        )
    if entry.traits.updates_in_backward:
        check_in_backward(entry.name, args, measures=bool(options.get("grad_norm")))
    if args.sharding is not None:
        check_backend(entry, "fsdp2")
    if args.zero is not None and args.zero.optimizer is None:
        check_backend(entry, f"zero{args.zero.stage}")


def check_in_backward(name: str, args: TrainingArguments, *, measures: bool) -> None:
    """Check that nothing needs all gradients at once.

    Args:
        name: Of the optimizer.
        args: The arguments.
        measures: A backward pass measures the norm of all gradients before the one that updates.

    Raises:
        ConfigurationError: If something does.
    """
    if measures:
        _check_measures(name, args)
    # The default counts as not asked for: the anchor has it on for everybody, and it never did anything here.
    elif args.max_grad_norm not in (0, TrainingArguments.max_grad_norm):
        raise ConfigurationError(
            f"optim={name!r} updates while gradients are computed, so their norm is not known before they are used, "
            f"and max_grad_norm={args.max_grad_norm} cannot clip it. Set it to 0, and learning_rate lower if "
            "need be; or set optim_args='grad_norm=true', which runs a backward pass for the norm alone before the one "
            "that updates."
        )
    if args.zero is not None and args.mixed_precision != "no":
        raise ConfigurationError(
            f"optim={name!r} under DeepSpeed steps the weights themselves, which are {args.mixed_precision} there "
            "without exact ones beside them. Leave bf16 and fp16 out, or use fsdp=True, which has exact weights."
        )
    if args.mixed_precision == "fp16":
        raise ConfigurationError(
            f"optim={name!r} updates while gradients are computed, before fp16's loss scaling can look for an "
            "overflow. Use bf16=True."
        )


def _check_measures(name: str, args: TrainingArguments) -> None:
    if args.max_grad_norm <= 0:
        raise ConfigurationError(
            f"optim_args='grad_norm=true' of optim={name!r} measures a norm to clip by, and max_grad_norm="
            f"{args.max_grad_norm} clips nothing. Set max_grad_norm above 0, or leave grad_norm out."
        )
    if args.zero is not None:
        raise ConfigurationError(
            f"optim_args='grad_norm=true' of optim={name!r} runs two backward passes through one forward pass, and "
            "DeepSpeed frees the weights in the first. Use fsdp=True, or leave grad_norm out."
        )
