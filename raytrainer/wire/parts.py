"""Of which parts a trainer consists when it travels a second time: their names, what they may refer to, setting one.

A trainer is sent once. After that, only its parts travel: what was changed on the driver between two calls, and what a
task changed on rank 0. A part that refers to another one, such as a callback that holds the trainer, or a collator that
holds the tokenizer, names it instead of bringing a second one along.

A path names a part: ``("attribute", name)``, ``("args", field)``, ``("callback", number)`` for a callback as a whole,
``("callback", number, attribute)``, ``("callbacks",)`` for their order, ``("weight", name)``, ``("trainable",)``,
``("config", attribute)``, ``("generation_config", attribute)``, ``("structure",)`` for the modules of the model,
``("prepared",)`` for what the driver's accelerator has prepared.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.pickling import Shipped, pack, unpack
from raytrainer.wire.pieces import Pieces, from_pieces
from raytrainer.wire.spec import ship

if TYPE_CHECKING:
    from torch import nn

Path: TypeAlias = tuple[str, ...]
Callbacks: TypeAlias = Mapping[str, object]
"""Number of a callback, as a string -> the callback. Both sides count alike."""

SentParts: TypeAlias = Shipped | dict[Path, Pieces]
"""Parts in transport form: all in one pickle, or each by itself, as they came back from a task."""

APART = frozenset({"args", "callback_handler", "_own_model", "_unbound_accelerator"})
"""Attributes of a trainer that consist of parts themselves, or of which each process has its own."""
BOUND = "bound: "
"""Begins the name of an object that exists in the worker's process only."""

_VALUES = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset, type, enum.Enum, ModuleType)
"""Types whose objects are compared by value, so that an identity says nothing."""


class Gone(enum.Enum):
    """Stands for the value of a part that does not exist any more."""

    GONE = enum.auto()


def name_of(path: Path) -> str:
    """A part as users know it, such as ``args.learning_rate``."""
    kind, *rest = path
    if kind == "attribute":
        return f"trainer.{rest[0]}"
    if kind == "weight":
        return f"trainer.model.{rest[0]}"
    if kind in ("config", "generation_config"):
        return f"trainer.model.{kind}.{rest[0]}"
    if kind == "args":
        return f"args.{rest[0]}" if rest else "args"
    names = {
        "trainable": "requires_grad",
        "structure": "the modules of trainer.model",
        "prepared": "what trainer.accelerator has prepared",
    }
    return names.get(kind, kind)


def name_of_object(path: Path) -> str | None:
    """The name by which other parts refer to the object that an attribute is; None for a part that stays itself."""
    return f"attribute: {path[1]}" if path[0] == "attribute" else None


def state_of(value: object) -> dict[str, Any]:
    """The attributes of an object that travel."""
    state: object = value.__getstate__()
    return cast("dict[str, Any]", state) if isinstance(state, dict) else dict(getattr(value, "__dict__", {}))


def known_objects(trainer: TrainerProtocol, callbacks: Callbacks) -> Iterator[tuple[str, object]]:
    """What a part may refer to by name: objects that both sides have."""
    yield "trainer", trainer
    yield "args", trainer.args
    yield "callback_handler", trainer.callback_handler
    process = trainer._process
    accelerator = trainer._unbound_accelerator or process.accelerator_alias or process.accelerator
    if accelerator is not None:
        yield "accelerator", accelerator
    model = trainer._own_model
    if is_module(model):
        yield "model", model
        for name, module in model.named_modules():
            yield f"module: {name}", module
        for name, tensor in tensors_of(model):
            yield f"tensor: {name}", tensor
    for number, callback in callbacks.items():
        yield f"callback: {number}", callback
    for name, value in state_of(trainer).items():
        if not isinstance(value, _VALUES) and name not in APART:
            yield f"attribute: {name}", value


def bound_objects(trainer: TrainerProtocol) -> Iterator[tuple[str, object]]:
    """What exists in a worker's process only, so that nothing that refers to it can go back."""
    process, handler = trainer._process, trainer.callback_handler
    named: dict[str, object] = {
        "the wrapped model": process.model_wrapped,
        "the optimizer": trainer.optimizer,
        "the schedule": trainer.lr_scheduler,
        "a loader of this rank": handler.train_dataloader,
        "a loader of this rank's evaluation": handler.eval_dataloader,
        "the accelerator": process.accelerator,
        "the runtime": process.runtime,
        "the backend": process.backend,
        "the session": process.session,
    }
    for name, value in named.items():
        if value is not None and value is not trainer._own_model:
            yield BOUND + name, value


def by_identity(objects: Iterator[tuple[str, object]]) -> dict[int, str]:
    """``id()`` of each object -> its first name."""
    names: dict[int, str] = {}
    for name, value in objects:
        names.setdefault(id(value), name)
    return names


def ship_parts(parts: Mapping[Path, Any], objects: Iterator[tuple[str, object]]) -> Shipped:
    """Bring parts of a trainer into transport form, all in one, so that they share what they shared.

    Args:
        parts: Path -> value.
        objects: What they may refer to, apart from each other.

    Raises:
        ConfigurationError: If a part cannot be pickled; names it.
    """
    own = {
        f"{path[0]}: {path[1]}" for path in parts if path[0] in ("attribute", "callback") and len(path) == 2
    }
    known = by_identity((name, known) for name, known in objects if name not in own)
    try:
        return pack(dict(parts), known)
    except Exception:
        for path, value in parts.items():
            ship(value, name_of(path), known)
        raise


def read_parts(sent: SentParts, find: Callable[[str], object]) -> dict[Path, Any]:
    """The parts that were sent, as far as they can be read here."""
    if isinstance(sent, Shipped):
        return unpack(sent, find)
    left_out: dict[str, str] = {}
    read = {path: from_pieces(pieces, str(path), left_out, find) for path, pieces in sent.items()}
    return {path: value for path, value in read.items() if str(path) not in left_out}


def is_module(model: object) -> bool:
    """Whether a trainer's model is there, rather than its name or nothing."""
    return hasattr(model, "named_parameters")


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters and buffers of a model, each once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def set_part(trainer: TrainerProtocol, callbacks: Callbacks, path: Path, value: Any) -> None:
    """Set an attribute of a trainer, or of one of its callbacks. A module stays the same object, on its device."""
    kind, *rest = path
    owner: object = trainer if kind == "attribute" else callbacks[rest[0]]
    before = vars(owner).get(rest[-1])
    if value is Gone.GONE:
        vars(owner).pop(rest[-1], None)
    elif is_module(before) and type(before) is type(value) and not _is_known(value, trainer, callbacks):
        _change_module(cast("nn.Module", before), value)
    else:
        vars(owner)[rest[-1]] = value


def _is_known(value: object, trainer: TrainerProtocol, callbacks: Callbacks) -> bool:
    return any(value is known for _, known in known_objects(trainer, callbacks))


def _change_module(module: nn.Module, new: nn.Module) -> None:
    devices = {tensor.device for _, tensor in tensors_of(module)}
    vars(module).clear()
    vars(module).update(vars(new))
    if len(devices) == 1:
        module.to(devices.pop())
