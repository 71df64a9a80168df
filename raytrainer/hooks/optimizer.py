"""Hooks about the optimizer and its schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.trainer_optimizer import is_optimizer_factory

from raytrainer.backends.choose import configured_optimizer, configured_schedule, drops_empty_groups
from raytrainer.loop.queries import Queries
from raytrainer.optim.catalogue import build, look_up, parse_options, reduces
from raytrainer.optim.families.bitsandbytes import is_quantizing, keep_embeddings_wide
from raytrainer.optim.parameter_groups import decay_parameter_names, parameter_groups
from raytrainer.optim.schedules import build_schedule, current_learning_rate
from raytrainer.optim.target_modules import target_parameters
from raytrainer.optim.traits import OptimizerRequest
from raytrainer.optim.wide_state import note_embeddings
from raytrainer.trainer_protocol import TrainerParts

_GROUPS = ("params", "model", "optimizer_dict")
"""Keywords under which ``get_optimizer_cls_and_kwargs`` may return what to train, instead of the model's groups."""


class OptimizerHooks(TrainerParts):
    """Optimizer and schedule."""

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Build both, unless they exist. An override may build either one."""
        self.create_optimizer()
        self.create_scheduler(num_training_steps=num_training_steps)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build ``self.optimizer`` from the catalogue, unless it exists."""
        if self.optimizer is None:
            target = self.model if model is None else model
            note_embeddings(target)
            groups = parameter_groups(
                target,
                self.get_decay_parameter_names(target),
                self.args.weight_decay,
                self._target_names(target),
            )
            if drops_empty_groups(self.args):
                groups = [group for group in groups if group["params"]]
            self.optimizer = self._build_optimizer(groups, target)
        return self.optimizer

    def _build_optimizer(self, groups: list[dict[str, Any]], model: nn.Module) -> torch.optim.Optimizer:
        """The class that the user passed, what the backend's config names, what a subclass says, or the catalogue."""
        if self.optimizer_cls_and_kwargs is not None:
            optimizer_class, options = self.optimizer_cls_and_kwargs
            return _built(optimizer_class, options, groups)
        configured = configured_optimizer(self.args, groups)
        if configured is not None:
            return configured
        if type(self).get_optimizer_cls_and_kwargs is not Queries.get_optimizer_cls_and_kwargs:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            own: dict[str, Any] = dict(options)
            if is_optimizer_factory(optimizer_class):
                return optimizer_class()(model, **own)
            for keyword in _GROUPS:
                groups = own.pop(keyword, groups)
            return _built(optimizer_class, own, groups)
        return self._build_from_catalogue(groups)

    def _target_names(self, model: nn.Module) -> list[str]:
        is_own, traits = self.optimizer_cls_and_kwargs is not None, look_up(self.args.optim).traits
        if is_own or not traits.takes_target_modules:
            return []
        return target_parameters(model, self.args.optim_target_modules or traits.default_targets)

    def _build_from_catalogue(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        args = self.args
        entry = look_up(args.optim)
        request = OptimizerRequest(
            groups=groups,
            learning_rate=args.learning_rate,
            adam_betas=(args.adam_beta1, args.adam_beta2),
            adam_epsilon=args.adam_epsilon,
            options=parse_options(entry, args.optim_args),
            reduces=reduces(entry, args),
            warmup_steps=args.warmup_steps,
        )
        self._optimizer_traits = entry.traits
        return build(entry, request)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Build ``self.lr_scheduler``, unless it exists.

        Args:
            num_training_steps: Optimizer steps of the whole run.
            optimizer: Whose learning rate is scheduled; the trainer's own when not given.
        """
        if self.lr_scheduler is None:
            target = self.optimizer if optimizer is None else optimizer
            raw = getattr(target, "optimizer", target)
            configured = configured_schedule(self.args, raw, num_training_steps)
            self.lr_scheduler = (
                build_schedule(self.args, raw, num_training_steps) if configured is None else configured
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _drop_created_scheduler(self) -> None:
        """Forget the schedule, if it was built here: the next ``train()`` may have another length."""
        if self._created_lr_scheduler:
            self.lr_scheduler = None
            self._created_lr_scheduler = False

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that weight decay applies to."""
        return decay_parameter_names(model)

    def _get_learning_rate(self) -> float:
        return current_learning_rate(self.lr_scheduler, self.optimizer)


def _built(
    optimizer_class: Any, options: dict[str, Any], groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = optimizer_class(groups, **options)
    if is_quantizing(optimizer_class, options):
        keep_embeddings_wide(optimizer)
    return optimizer
