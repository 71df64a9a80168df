"""What the standing workers of a trainer have of it: as it was sent, and each change that they were sent since.

A worker that Ray starts again has the trainer as it was sent at first. So all changes are kept and go with each task,
those of the user and what earlier tasks left behind on rank 0; a worker applies those that it does not have.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raytrainer.arguments.set_up_fields import check_derived
from raytrainer.driver.trainer_changes import TrainerParts, needs_new_workers
from raytrainer.errors import ConfigurationError
from raytrainer.runtimes import ray_calls
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.hub_token import StandIn
from raytrainer.wire.messages import Change
from raytrainer.wire.parts import Path, SentParts, known_objects, name_of, ship_parts, tensors_of
from raytrainer.worker.returned import Returned

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    change: Change
    paths: frozenset[Path]


class ChangesSent:
    """Finds and sends the changes of one trainer to the workers of one group.

    Args:
        trainer: Has just been sent.
    """

    def __init__(self, trainer: TrainerProtocol) -> None:
        self._parts = TrainerParts(trainer)
        self._kept: list[_Kept] = []
        self.version = 0
        """Of the driver's trainer."""
        self.has_new_weights = False
        """The weights were edited on the driver since the last task."""
        for path in self._parts.too_large:
            logger.info(
                "%s is too large to be compared in whole between two calls: a change inside one of its rows may be "
                "missed. Assign a new object when you have changed it.",
                name_of(path),
            )

    @property
    def changes(self) -> list[Change]:
        """What makes the trainer of this version out of the one that was sent at first."""
        return [kept.change for kept in self._kept]

    def callbacks(self) -> dict[str, object]:
        """Number -> callback of the driver's trainer."""
        return self._parts.callbacks()

    def next_version(self) -> int:
        """The version that a task of the package's own is for. It changes nothing, but each task makes a version."""
        self.version += 1
        return self.version - 1

    def find_changes(self, trainer: TrainerProtocol, *, num_workers: int, builds_model: bool) -> list[str]:
        """Find what has changed on the driver, to be sent with the next task.

        Args:
            trainer: The driver's trainer.
            num_workers: How many workers stand.
            builds_model: The next task builds the model anew, if the trainer has a ``model_init``.

        Returns:
            Names of changed parts that need new workers; then nothing is sent.

        Raises:
            ConfigurationError: If a change can have no effect, or cannot be sent.
        """
        parts = self._parts.find_changes(trainer)
        check_derived({path[1] for path in parts if path[0] == "args" and len(path) > 1})
        if builds_model and trainer.model_init is not None:
            parts = {path: value for path, value in parts.items() if path[0] not in ("weight", "trainable")}
        self.has_new_weights = any(path[0] == "weight" for path in parts)
        if self.has_new_weights and trainer._process.weights_are_on_workers:
            raise _weights_on_both_sides(parts)
        fixed = needs_new_workers(parts, num_workers=num_workers, is_sharded=bool(trainer.args.sharded_by))
        if fixed:
            return [name_of(path) for path in fixed]
        if self.has_new_weights:
            # All of them: a worker that is started again has none of those that were trained. Their bytes: the
            # parameters themselves travel as names.
            parts |= {("weight", name): tensor.detach() for name, tensor in tensors_of(trainer._own_model)}
        if ("args", "push_to_hub") in parts or ("args", "hub_token") in parts:
            parts["args", "hub_token"] = StandIn()
        if parts:
            shipped = ship_parts(parts, known_objects(trainer, self.callbacks()))
            self.version += 1
            self._keep(shipped, parts)
        self._parts.accept_changes()
        return []

    def note_returned(self, trainer: TrainerProtocol, paths: Sequence[Path], returned: Returned) -> None:
        """The workers have made a new version, of which the driver has these parts."""
        self._parts.note(trainer, paths)
        self.version += 1
        self._keep({path: returned.parts[path] for path in paths}, paths)

    def note_model(self, trainer: TrainerProtocol) -> None:
        """The driver's model is that of the workers."""
        self._parts.note_model(trainer)

    def _keep(self, parts: SentParts, paths: Iterable[Path]) -> None:
        new = frozenset(paths)
        change = Change(version=self.version, parts=[ray_calls.put(parts)])
        # A part that came later makes up for one that came before.
        self._kept = [kept for kept in self._kept if not kept.paths <= new]
        self._kept.append(_Kept(change=change, paths=new))


def _weights_on_both_sides(parts: Iterable[Path]) -> ConfigurationError:
    edited = [name_of(path) for path in parts if path[0] == "weight"]
    return ConfigurationError(
        f"{len(edited)} weights were edited on the driver (the first is {edited[0]}), but the model there is the one "
        "from before train(): the trained weights are still on the workers. Read trainer.model first, which brings "
        "them into that same model, then edit it."
    )
