"""Where the workers of a trial run: in the placement group that Ray Tune reserved for the trial.

Tune reserves all that a trial needs at once, so trials cannot wait for each other: either a trial has room for every
worker, or it has not begun. A second placement group beside it would be waited for while the first one holds the CPUs.

Bundles after the trial's own hold one worker each. A function that a user gave to Tune has no such bundles: its workers
share what the trial reserved for itself, because its process waits while they work.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray.util.placement_group import PlacementGroup, get_current_placement_group

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.capacity import Allocation
from raytrainer.errors import ConfigurationError

CLAIM_NAME = ".trial.json"
"""In the output directory of a trial's function: which trial writes there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRoom:
    """What a trial has for its workers."""

    group: PlacementGroup
    bundles: tuple[dict[str, float], ...]
    """One for each worker; empty if the workers share the trial's own."""
    first: int
    """Index of the first of them in the placement group."""
    own: dict[str, float]
    """What the trial's process reserved for itself."""

    def bundle_of(self, worker: int) -> int:
        """Index of the bundle in which a worker runs."""
        return self.first + worker if self.bundles else 0


def room_of_trial_function() -> TrialRoom | None:
    """The room of the trial whose function runs in this process; None in any other process."""
    # Whoever runs a trial has imported it; nobody else pays for the import.
    sessions: Any = sys.modules.get("ray.train._internal.session")
    session = None if sessions is None else sessions.get_session()
    return current_room() if session is not None and session.world_rank is None else None


def current_room() -> TrialRoom | None:
    """What the placement group of this process has for workers; None if it has no placement group."""
    group = get_current_placement_group()
    if group is None:
        return None
    assigned: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    own = {name: float(amount) for name, amount in assigned.items() if amount and _is_plain(name)}
    first = 1 if own else 0
    bundles = cast("list[dict[str, float]]", group.bundle_specs)
    return TrialRoom(group=group, bundles=tuple(dict(one) for one in bundles[first:]), first=first, own=own)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        claimed: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        claimed = {}
    if claimed.get("experiment") == experiment and claimed.get("trial") != trial:
        raise ConfigurationError(
            f"output_dir={output_dir!r} is that of trial {claimed.get('trial')} already, and trial {trial} would "
            "overwrite its checkpoints. Give each trial a directory of its own: output_dir=os.path.join(..., "
            "ray.tune.get_context().get_trial_id())."
        )
    path.write_text(json.dumps({"experiment": experiment, "trial": trial}) + "\n", encoding="utf-8")


def plan_in_trial(args: TrainingArguments, room: TrialRoom) -> Allocation:
    """Plan the workers of a trial on what Tune has reserved for it.

    Args:
        args: ``num_workers``; by default one for each bundle.
        room: What the trial has.

    Raises:
        ConfigurationError: If there are fewer bundles than workers, or if workers would have to share a GPU.
    """
    if not room.bundles:
        return _plan_shared(args, room)
    num_workers = args.num_workers or len(room.bundles)
    if num_workers > len(room.bundles):
        raise ConfigurationError(
            f"num_workers={num_workers}, but Ray Tune reserved room for {len(room.bundles)} in this trial: "
            f"{list(room.bundles)}. Use raytrainer.tune.trainable(), which reserves what a trial needs, or give Tune a "
            "bundle for each worker: tune.with_resources(function, raytrainer.tune.resources(args))."
        )
    each = room.bundles[0]
    return Allocation(
        num_workers=num_workers, use_gpu=each.get("GPU", 0) > 0, resources_per_worker=dict(each)
    )


def _plan_shared(args: TrainingArguments, room: TrialRoom) -> Allocation:
    if room.own.get("GPU"):
        raise ConfigurationError(
            f"Ray Tune reserved {room.own['GPU']:g} GPU for this trial's own process, where its workers cannot use it. "
            "Give Tune a bundle for each worker: tune.with_resources(function, raytrainer.tune.resources(args))."
        )
    # They reserve nothing, so that Ray starts them in the bundle that the trial's own process fills.
    return Allocation(
        num_workers=args.num_workers or 1,
        use_gpu=False,
        resources_per_worker={},
        shared_cores=max(1, int(room.own.get("CPU", 1.0)) // (args.num_workers or 1)),
    )


def _is_plain(name: str) -> bool:
    """Ray also lists the resources by which it finds a bundle, and those of a node."""
    return "_group_" not in name and not name.startswith(("node:", "bundle_group"))
