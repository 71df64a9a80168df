"""Takes over what the user changed on the driver's trainer since the last task."""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch

from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.parts import (
    Gone,
    Path,
    SentParts,
    known_objects,
    read_parts,
    set_part,
    tensors_of,
)
from raytrainer.worker.setup import build_model


def apply_change(trainer: TrainerProtocol, callbacks: MutableMapping[str, object], change: SentParts) -> None:
    """All ranks: change a trainer that is set up in this process.

    Args:
        trainer: The trainer.
        callbacks: Those that the driver has, by number; new ones are added.
        change: Parts of it in transport form.
    """
    objects = dict(known_objects(trainer, callbacks))
    parts = read_parts(change, objects.__getitem__)
    arguments = {path[1]: value for path, value in parts.items() if path[0] == "args"}
    if arguments:
        trainer.args.change(arguments)
    if arguments or any(path[0] == "attribute" for path in parts):
        trainer._process.eval_loaders.clear()  # made from other data, or otherwise
    weights = {path[1]: value for path, value in parts.items() if path[0] == "weight"}
    if weights:
        _set_weights(trainer, weights)
    for path, value in parts.items():
        _set(trainer, callbacks, path, value)


def _set(trainer: TrainerProtocol, callbacks: MutableMapping[str, object], path: Path, value: Any) -> None:
    kind = path[0]
    if kind == "callback" and len(path) == 2:
        callbacks[path[1]] = value
    elif kind == "callbacks":
        handler = trainer.callback_handler
        drivers = {id(callback) for callback in callbacks.values()}
        own = [callback for callback in handler.callbacks if id(callback) not in drivers]
        handler.callbacks = [callbacks[number] for number in value] + own
    elif kind in ("attribute", "callback"):
        set_part(trainer, callbacks, path, value)
    elif kind == "trainable":
        for name, parameter in trainer.model.named_parameters():
            parameter.requires_grad_(value[name])
    elif kind in ("config", "generation_config"):
        config = getattr(trainer.model, kind)
        if value is Gone.GONE:
            vars(config).pop(path[1], None)
        else:
            setattr(config, path[1], value)


def _set_weights(trainer: TrainerProtocol, weights: dict[str, torch.Tensor]) -> None:
    if trainer.model is None:
        build_model(trainer)
    targets = dict(tensors_of(trainer._own_model))
    with torch.no_grad():
        for name, value in weights.items():
            targets[name].copy_(value)
