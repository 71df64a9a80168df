"""Which parameters train: noticing that some were frozen or unfrozen after the optimizer was built, and following.

A callback that unfreezes layers one after another would otherwise change nothing: their parameters get gradients, and
are in no optimizer. They become parameter groups of their own, with the settings of those that the run began with. What
is in the optimizer and was frozen stays there; it has no gradient, and so is neither stepped nor part of the gradient
norm.

Looked at after ``on_train_begin``, ``on_epoch_begin`` and ``on_step_begin``, and after each step. All ranks take part,
because a wrapper such as DDP is made anew on all of them.
"""

from __future__ import annotations

import operator
import zlib
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from raytrainer.backends.base import Backend
from raytrainer.errors import ConfigurationError
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun
from raytrainer.optim.added_groups import add_group, extend_schedule, why_not_addable
from raytrainer.trainer_protocol import TrainerProtocol

_LOOK_FOR_NEW_EVERY = 100
"""Steps between two looks for parameters that were not there before, which walk through all modules."""


_requires_grad = operator.attrgetter("requires_grad")


@dataclass(kw_only=True)
class Trainable:
    """The parameters of a model and an optimizer, as they were when they were last looked at."""

    optimizer: Any
    first_groups: int
    """Groups that the optimizer began with."""
    start: list[str]
    """Names of the parameters that could be trained then."""
    left_out: frozenset[str]
    """Parameters that could have been trained from the start and were given to no optimizer, as somebody wants it."""
    named: list[tuple[str, nn.Parameter]]
    flags: list[bool]
    num_groups: int
    parameters: list[nn.Parameter] = field(init=False)
    """Those of ``named``."""
    begun: list[str] | None = None
    """What could be trained after ``on_train_begin``."""
    to_restore: list[str] | None = field(default=None)
    """What could be trained where the run goes on, until ``on_train_begin`` is over."""

    def __post_init__(self) -> None:
        self.parameters = [parameter for _, parameter in self.named]

    @property
    def names(self) -> list[str]:
        """Names of the parameters that can be trained now."""
        return [name for name, parameter in self.named if parameter.requires_grad]

    def has_changed(self, model: nn.Module, *, looks_for_new: bool) -> bool:
        """Whether parameters were frozen, unfrozen or replaced, or groups were added, since they were looked at."""
        if list(map(_requires_grad, self.parameters)) != self.flags:
            return True
        if len(self.optimizer.param_groups) != self.num_groups:
            return True
        if not looks_for_new:
            return False
        now = list(model.parameters())
        return len(self.parameters) != len(now) or any(
            one is not other for one, other in zip(self.parameters, now, strict=True)
        )

    def look(self, model: nn.Module) -> None:
        """Take things as they are now."""
        self.named = list(model.named_parameters())
        self.parameters = [parameter for _, parameter in self.named]
        self.flags = [parameter.requires_grad for _, parameter in self.named]
        self.num_groups = len(self.optimizer.param_groups)

    def record(self, backend: Backend) -> dict[str, Any] | None:
        """What a checkpoint keeps; None if all is as it was when the optimizer was built."""
        by_parameter = {parameter: name for name, parameter in self.named}
        groups = backend.optimizer_groups(self.optimizer)[self.first_groups :]
        added = [[by_parameter[one] for one in group if one in by_parameter] for group in groups]
        if not added and self.names == self.start:
            return None
        return {"start": self.start, "added": added, "now": self.names, "begun": self.begun or self.names}


def trainable_of(trainer: TrainerProtocol, backend: Backend) -> Trainable:
    """The record of a trainer's model and optimizer; that of its last ``train()``, if the optimizer is the same."""
    known = trainer._process.trainable
    if known is not None and _raw(known.optimizer) is _raw(trainer.optimizer):
        known.optimizer = trainer.optimizer
        return known
    groups = backend.optimizer_groups(trainer.optimizer)
    inside = {id(parameter) for group in groups for parameter in group}
    named = cast("list[tuple[str, nn.Parameter]]", list(trainer.model.named_parameters()))
    found = Trainable(
        optimizer=trainer.optimizer,
        first_groups=len(groups),
        start=[name for name, parameter in named if parameter.requires_grad],
        left_out=frozenset(name for name, one in named if one.requires_grad and id(one) not in inside),
        named=named,
        flags=[parameter.requires_grad for _, parameter in named],
        num_groups=len(trainer.optimizer.param_groups),
    )
    trainer._process.trainable = found
    return found


def follow(run: TrainRun, *, looks_for_new: bool = False) -> None:
    """All ranks: if a rank's trainable parameters have changed, let backend, optimizer and schedule follow.

    ``looks_for_new``: also look for parameters that were not there before.
    """
    if run.runtime.agree([int(has_changed(run, looks_for_new=looks_for_new))])[0]:
        apply_changes(run)


def has_changed(run: TrainRun, *, looks_for_new: bool = False) -> bool:
    """This rank: whether its trainable parameters have changed."""
    assert run.trainable is not None
    is_due = run.trainer.state.global_step % _LOOK_FOR_NEW_EVERY == 0
    return run.trainable.has_changed(run.trainer.model, looks_for_new=looks_for_new or is_due)


def apply_changes(run: TrainRun) -> None:
    """All ranks: let backend, optimizer and schedule follow the parameters that can be trained now.

    Raises:
        ConfigurationError: If ranks differ, or the backend or the optimizer cannot follow.
    """
    trainer, trainable = run.trainer, run.trainable
    assert trainable is not None
    before = {name for (name, _), flag in zip(trainable.named, trainable.flags, strict=True) if flag}
    trainable.look(trainer.model)
    now = trainable.names
    check_ranks_alike(run, now)
    frozen = sorted(before - set(now))
    run.model = trainer.model_wrapped = run.backend.follow_trainable(run.model)
    added = add_new(trainer, run.backend, trainable)
    for _, parameter in trainable.named:
        if not parameter.requires_grad:
            parameter.grad = None
    trainable.look(trainer.model)
    said = [f"{len(added)} parameters were added to the optimizer ({_few(added)})"] if added else []
    said += [f"{len(frozen)} parameters are not trained any more ({_few(frozen)})"] if frozen else []
    if said:
        tell(run.runtime, f"From step {trainer.state.global_step + 1} on, {'; '.join(said)}.", level="info")


def add_new(trainer: TrainerProtocol, backend: Backend, trainable: Trainable) -> list[str]:
    """Add what can be trained and is in no group as groups of their own; return its names.

    Args:
        trainer: With its optimizer and schedule.
        backend: Knows what the optimizer was given.
        trainable: Of the model.

    Raises:
        ConfigurationError: If the optimizer takes no further groups.
    """
    optimizer = trainer.optimizer
    inside = {id(parameter) for group in backend.optimizer_groups(optimizer) for parameter in group}
    new = {
        name: parameter
        for name, parameter in trainable.named
        if parameter.requires_grad and id(parameter) not in inside and name not in trainable.left_out
    }
    if new:
        reason = why_not_addable(optimizer, trainer._optimizer_traits)
        if reason is not None:
            raise ConfigurationError(
                f"{len(new)} parameters were unfrozen after the optimizer was built ({_few(list(new))}), and {reason}. "
                "Leave them trainable until train() has built the optimizer, and freeze them in on_train_begin; or use "
                "an optimizer of torch, such as adamw_torch."
            )
        decayed = set(trainer.get_decay_parameter_names(trainer.model))
        for is_decayed in (True, False):
            names = [name for name in new if (name in decayed) == is_decayed]
            if names:
                add_parameters(trainer, [new[name] for name in names], is_decayed=is_decayed)
    extend_schedule(trainer.lr_scheduler, _raw(optimizer))
    return list(new)


def add_parameters(trainer: TrainerProtocol, parameters: list[nn.Parameter], *, is_decayed: bool) -> None:
    """Add one group.

    Args:
        trainer: With its optimizer.
        parameters: Those of the group.
        is_decayed: Whether weight decay applies to them.
    """
    is_ours = trainer._optimizer_traits is not None or trainer.optimizer_cls_and_kwargs is not None
    decay = trainer.args.weight_decay if is_decayed else 0.0
    add_group(_raw(trainer.optimizer), parameters, weight_decay=decay, is_like_others=is_ours)


def check_ranks_alike(run: TrainRun, names: list[str]) -> None:
    """All ranks: see that all train the same parameters.

    Raises:
        ConfigurationError: On all ranks, if they do not.
    """
    largest = 2**31 - 1
    number = zlib.crc32("\n".join(names).encode()) & largest
    highest, lowest = run.runtime.agree([number, largest - number])
    if highest != largest - lowest:
        raise ConfigurationError(
            f"After step {run.trainer.state.global_step} the ranks do not train the same parameters; rank "
            f"{run.runtime.rank} trains {len(names)} ({_few(names)}). Freeze and unfreeze on all ranks, not on rank 0 "
            "alone."
        )


def restore_start(trainer: TrainerProtocol, record: dict[str, Any] | None) -> None:
    """All ranks, before an optimizer is built: let the same parameters be trained as when the saved one was built."""
    if record is not None and trainer.optimizer is None:
        set_trainable(trainer.model, record["start"])


def restore_groups(trainer: TrainerProtocol, backend: Backend, record: dict[str, Any] | None) -> None:
    """All ranks, before a state is loaded: give the optimizer the groups that it had when the state was saved.

    Args:
        trainer: With its model, optimizer and schedule.
        backend: Knows what the optimizer was given.
        record: Of the checkpoint; None if nothing had changed.
    """
    if record is None:
        return
    trainable = trainable_of(trainer, backend)
    by_name = dict(trainable.named)
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    present = len(backend.optimizer_groups(trainer.optimizer)) - trainable.first_groups
    for names in record["added"][present:]:
        add_parameters(trainer, [by_name[name] for name in names], is_decayed=names[0] in decayed)
    extend_schedule(trainer.lr_scheduler, _raw(trainer.optimizer))
    trainable.to_restore, trainable.begun = record["now"], record["begun"]
    set_trainable(trainer.model, record["now"])


def set_trainable(model: nn.Module, names: list[str]) -> None:
    """Let these parameters be trained, and no others."""
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


def after_train_begin(run: TrainRun) -> None:
    """All ranks: follow what ``on_train_begin`` froze or unfroze.

    Where a run goes on and its callbacks did there what they did when it began, what came of it until the checkpoint
    is done again, because the events that did it do not come again.
    """
    trainable = run.trainable
    assert trainable is not None
    if trainable.to_restore is not None and trainable.begun == trainable.names:
        set_trainable(run.trainer.model, trainable.to_restore)
    if trainable.begun is None or trainable.to_restore is None:
        trainable.begun = trainable.names
    trainable.to_restore = None
    follow(run, looks_for_new=True)


def _raw(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
