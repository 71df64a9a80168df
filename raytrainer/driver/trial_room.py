"""Where the workers of a trial run: in the placement group that Ray Tune reserved for the trial.

Tune reserves all that a trial needs at once, so trials cannot wait for each other: either a trial has room for every
worker, or it has not begun. A second placement group beside it would be waited for while the first one holds the CPUs.

Bundles after the trial's own hold one worker each. Where Tune was told nothing of workers there are none, and workers
find room as those of any trainer (``driver/reservation.py``): in what the trial reserved for itself, if need be.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ray.util.placement_group import PlacementGroup, get_current_placement_group

from raytrainer.arguments.elastic import check_fixed
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.capacity import Allocation
from raytrainer.driver.ray_tables import reserved_by_this_process
from raytrainer.driver.reservation import Reservation
from raytrainer.driver.room import Room
from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri
from raytrainer.storage.store import ObjectStore

CLAIM_NAME = ".trial.json"
"""In the output directory of a trial's function: which trial writes there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRoom:
    """What a trial has for its workers."""

    group: PlacementGroup
    bundles: tuple[dict[str, float], ...]
    """One for each worker."""
    first: int
    """Index of the first of them in the placement group."""


class Borrowed(Reservation):
    """Room that belongs to the trial, which gives it back."""

    is_own = False

    def will_be_released(self) -> None:
        """Nothing: nobody else gets it."""

    def release(self) -> None:
        """Nothing: the trial's next trainer may use it."""


def is_trial_function() -> bool:
    """Whether a function that a user gave to Ray Tune runs in this process."""
    # Whoever runs a trial has imported it; nobody else pays for the import.
    sessions: Any = sys.modules.get("ray.train._internal.session")
    session = None if sessions is None else sessions.get_session()
    return session is not None and session.world_rank is None


def current_room() -> TrialRoom | None:
    """What the placement group of this process has for workers; None if it has nothing for them."""
    group = get_current_placement_group()
    if group is None:
        return None
    bundles = cast("list[dict[str, float]]", group.bundle_specs)
    first = 1 if reserved_by_this_process() else 0
    if not bundles[first:]:
        return None
    return TrialRoom(group=group, bundles=tuple(dict(one) for one in bundles[first:]), first=first)


def claim_output_dir(output_dir: str) -> None:
    """In a function that runs as a trial: check that no other trial of the experiment writes into its directory.

    Args:
        output_dir: The directory of the trainer.

    Raises:
        ConfigurationError: If another trial does.
    """
    tune: Any = importlib.import_module("ray.tune")
    context = tune.get_context()
    experiment, trial = str(context.get_experiment_name()), str(context.get_trial_id())
    path = Path(output_dir) / CLAIM_NAME
    store = ObjectStore(output_dir) if is_uri(output_dir) else None
    try:
        text = path.read_text(encoding="utf-8") if store is None else store.get_text(CLAIM_NAME)
        claimed: Any = json.loads(text)
    except (OSError, ValueError):
        claimed = {}
    if claimed.get("experiment") == experiment and claimed.get("trial") != trial:
        raise ConfigurationError(
            f"output_dir={output_dir!r} is that of trial {claimed.get('trial')} already, and trial {trial} would "
            "overwrite its checkpoints. Give each trial a directory of its own: output_dir=os.path.join(..., "
            "ray.tune.get_context().get_trial_id())."
        )
    claim = json.dumps({"experiment": experiment, "trial": trial}) + "\n"
    if store is not None:
        store.put_text(CLAIM_NAME, claim)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(claim, encoding="utf-8")


def borrow(args: TrainingArguments, room: TrialRoom) -> Reservation:
    """Plan the workers of a trial on what Tune has reserved for it.

    Args:
        args: ``num_workers``; by default one for each bundle.
        room: What the trial has.

    Raises:
        ConfigurationError: If there are fewer bundles than workers, or their number may change.
    """
    check_fixed(args, "a trial of Ray Tune", "the workers run in what Tune reserved before the trial began")
    num_workers = args.max_workers or len(room.bundles)
    if num_workers > len(room.bundles):
        raise ConfigurationError(
            f"num_workers={num_workers}, but Ray Tune reserved room for {len(room.bundles)} in this trial: "
            f"{list(room.bundles)}. Use raytrainer.tune.trainable(), which reserves what a trial needs, or give Tune a "
            "bundle for each worker: tune.with_resources(function, raytrainer.tune.resources(args))."
        )
    each = room.bundles[0]
    allocation = Allocation(
        num_workers=num_workers, use_gpu=each.get("GPU", 0) > 0, resources_per_worker=dict(each)
    )
    return Borrowed(Room(group=room.group, first=room.first), allocation)
