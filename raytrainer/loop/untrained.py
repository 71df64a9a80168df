"""Which trainable parameters do not train, and how a person hears of it.

Those that the optimizer does not have are known before the first step; those that the loss does not reach, after its
backward pass: they have no gradient, and no optimizer changes them. With DDP a parameter counts as reached if it is on
any rank. ZeRO, and optimizers that step in the backward pass, keep no gradients that could be looked at.
"""

from __future__ import annotations

from typing import Any, cast

from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun
from raytrainer.loop.trainable import Trainable
from raytrainer.optim.ties import describe_left_out, listed
from raytrainer.trainer_protocol import TrainerProtocol


def tell_left_out(trainer: TrainerProtocol, trainable: Trainable) -> None:
    """Rank 0: say what is trained and not in the optimizer.

    Args:
        trainer: With the optimizer of the run, wrapped.
        trainable: The record of its parameters.
    """
    left_out, named = trainable.left_out, [one for one in trainable.named if one[0] in set(trainable.start)]
    if not left_out or trainer._optimizer_traits is not None:  # one of the catalogue was given all there are
        return
    if trainer._runtime.rank == 0:
        tell(trainer._runtime, describe_left_out(left_out, named))


def tell_untouched(run: TrainRun) -> None:
    """Rank 0, after the backward passes of the first step of an attempt: name parameters without a gradient."""
    is_first = run.trainer.state.global_step == run.resumed_step
    if not is_first or run.runtime.rank != 0 or run.updates_in_backward or run.args.zero is not None:
        return
    named = cast("list[tuple[str, Any]]", list(run.trainer.model.named_parameters()))
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    untouched = [name for name, parameter in trained if parameter.grad is None]
    if not untouched or len(untouched) == len(trained):  # a step without any target has no gradient at all
        return
    tell(
        run.runtime,
        f"{len(untouched)} of {len(trained)} trainable parameters got no gradient in the first step, since the loss "
        f"does not depend on them: {listed(untouched)}. They stay as they are. If that is intended, freeze them with "
        "requires_grad_(False).",
    )
