"""What a driver gets back from a task: its value, and the parts of the trainer that it may have changed on rank 0.

Each part travels by itself, so a finished run is never lost because of one of them: what cannot be pickled here, or
read there, is left out and named. What exists in this process only, such as the wrapped model, is never sent.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.parts import (
    Callbacks,
    Path,
    bound_objects,
    by_identity,
    is_module,
    known_objects,
    name_of_object,
    state_of,
)
from raytrainer.wire.pieces import Pieces, in_pieces


@dataclass(frozen=True, kw_only=True, slots=True)
class Returned:
    """What the driver gets back from a task."""

    value: Pieces
    trained_world_size: int | None = None
    """Ranks of the last ``train()``."""
    parts: dict[Path, Pieces] = field(default_factory=dict[Path, Pieces])
    attributes: frozenset[str] = frozenset()
    """Names of all that the trainer has on rank 0; what the user deleted there is not among them."""


def returned(trainer: TrainerProtocol, callbacks: Callbacks, value: object) -> Returned:
    """All ranks: what goes back from rank 0.

    Args:
        trainer: The trainer in this process.
        callbacks: Those that the driver has, by number.
        value: What the method returned.
    """
    going = dict(_going_back(trainer, callbacks))
    known = by_identity(chain(bound_objects(trainer), known_objects(trainer, callbacks)))
    own = {name_of_object(path) for path in going}
    itself = {identity: name for identity, name in known.items() if name not in own}
    # The driver takes over these first, and finds what others refer to.
    first = [path for path, part in going.items() if _comes_first(path, part, known)]
    parts = {path: in_pieces(going[path], itself) for path in first}
    found = {name_of_object(path) for path, pieces in parts.items() if pieces.why_not is None}
    others = {identity: name for identity, name in known.items() if name not in own - found}
    parts |= {path: in_pieces(part, others) for path, part in going.items() if path not in parts}
    return Returned(
        value=in_pieces(value, others),
        trained_world_size=trainer._process.trained_world_size,
        parts=parts,
        attributes=frozenset(vars(trainer)),
    )


_FIRST: tuple[Path, ...] = (("attribute", "state"), ("attribute", "control"))


def _comes_first(path: Path, part: object, known: Mapping[int, str]) -> bool:
    return path in _FIRST or (is_module(part) and known.get(id(part)) == name_of_object(path))


def _going_back(trainer: TrainerProtocol, callbacks: Callbacks) -> Iterator[tuple[Path, object]]:
    yield ("attribute", "state"), trainer.state
    yield ("attribute", "control"), trainer.control
    yield ("attribute", "hub_model_id"), trainer.hub_model_id
    for number, callback in callbacks.items():
        for name, value in state_of(callback).items():
            yield ("callback", number, name), value
    travels = state_of(trainer)
    for name in trainer._user_attributes():
        if name in travels:
            yield ("attribute", name), travels[name]
