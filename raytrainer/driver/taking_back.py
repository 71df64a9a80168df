"""Takes over on the driver what a task left behind on rank 0: state, callbacks, the user's own attributes.

What cannot be read here is left out: the driver keeps what it had.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.parts import BOUND, Callbacks, Gone, Path, known_objects, name_of, set_part, state_of
from raytrainer.wire.pieces import BoundError, from_pieces, in_pieces
from raytrainer.worker.returned import Returned


@dataclass(kw_only=True)
class Taken:
    """What became of what a task returned."""

    value: Any
    paths: list[Path] = field(default_factory=list[Path])
    """Parts that the driver took over."""
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    """Name of what it could not -> why."""
    refers_to_model: bool = False
    """Something that came back refers to the model, whose weights are still with the workers."""

    def warning(self, method: str) -> str:
        """What to tell the user about what was left out."""
        listed = "; ".join(f"{name} ({why})" for name, why in list(self.left_out.items())[:6])
        more = f"; and {len(self.left_out) - 6} more" if len(self.left_out) > 6 else ""
        return (
            f"{method}() is done, but this stays on the workers: {listed}{more}. Keep plain values, arrays or tensors "
            "instead; the trained model is trainer.model."
        )


def take_back(trainer: TrainerProtocol, callbacks: Callbacks, returned: Returned, method: str) -> Taken:
    """Take over what a task left behind, and read its value.

    Args:
        trainer: The driver's trainer.
        callbacks: Its callbacks, by number.
        returned: What came from rank 0.
        method: That was called.
    """
    taken = Taken(value=None)

    def find(name: str) -> object:
        if name.startswith(BOUND):
            raise BoundError(f"it refers to {name.removeprefix(BOUND)}, which exists only there")
        taken.refers_to_model |= name.startswith(("model", "module", "tensor"))
        if name == "model":
            return trainer.model if isinstance(trainer._own_model, str) else trainer._own_model
        objects = dict(known_objects(trainer, callbacks))
        if name not in objects:
            raise BoundError(f"it refers to {name}, which the driver does not have")
        return objects[name]

    for name in trainer._user_attributes().keys() & state_of(trainer).keys() - returned.attributes:
        returned.parts["attribute", name] = in_pieces(Gone.GONE)
    for path, pieces in returned.parts.items():
        name = name_of(path)
        if path[0] == "callback":
            name = f"{type(callbacks[path[1]]).__name__}.{path[2]}"
        value = from_pieces(pieces, name, taken.left_out, find)
        if name not in taken.left_out:
            set_part(trainer, callbacks, path, value)
            taken.paths.append(path)
    taken.value = from_pieces(returned.value, f"{method}()", taken.left_out, find)
    trainer._process.trained_world_size = returned.trained_world_size
    return taken
