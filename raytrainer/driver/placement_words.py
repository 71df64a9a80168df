"""What a person reads about room for workers: what is waited for, who has it, what came instead, what to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.capacity import Allocation, listed, needed_by, wish
from raytrainer.driver.ray_tables import Tables

MAX_HOLDERS = 12
"""Lines about who holds what."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """What is waited for, and how things stand."""

    args: TrainingArguments
    wanted: Allocation
    tables: Tables
    holders: Sequence[str]

    @property
    def held_by(self) -> list[str]:
        """The holders that are shown."""
        more = len(self.holders) - MAX_HOLDERS
        shown = [*self.holders[:MAX_HOLDERS], *([f"and {more} more"] if more > 0 else [])]
        return shown or ["nobody that Ray's tables list"]

    @property
    def state(self) -> str:
        """What the cluster has, and what of it is free."""
        names = needed_by(self.args, self.wanted)[0].keys() | {"CPU"}
        has = _total([node.get("Resources") or {} for node in self.tables.nodes], names)
        free = _total(list(self.tables.free.values()), names)
        return f"The cluster has {listed(has)}; free: {listed(free)}."


def waiting_text(wait: Wait, waited_s: float) -> str:
    """The note that the user reads while a trainer waits.

    Args:
        wait: What is waited for.
        waited_s: For how long.
    """
    args = wait.args
    growing = "; nodes are being started" if wait.tables.is_growing else ""
    limit = f" of at most {args.placement_timeout_s:g} s"
    if args.is_elastic and waited_s < args.elastic_timeout_s:
        limit = f"; after {args.elastic_timeout_s:g} s as many are taken as have room, at least {args.min_workers}"
    return (
        f"waiting for {wish(args, wait.wanted)}, for {waited_s:.0f} s{limit}{growing}. {wait.state} "
        f"Taken by: {'; '.join(wait.held_by)}"
    )


def no_room_text(wait: Wait, own: dict[str, float] | None = None) -> str:
    """The message of the error that ends the wait.

    Args:
        wait: What was waited for.
        own: What the actor or task in which the trainer runs reserved, if that is in the way for ever.
    """
    fewer = "ask for fewer workers or for less per worker (num_workers, resources_per_worker)"
    if own is None:
        why = f" was free within placement_timeout_s={wait.args.placement_timeout_s:g} s."
        advice = (
            f"Wait for them to end, end them (trainer.end() ends a trainer's idle workers), {fewer}, or raise "
            "placement_timeout_s."
        )
    else:
        why = (
            f" can ever be free: the actor or task in which this trainer runs reserved {listed(own)} itself, and keeps "
            "them while it waits."
        )
        advice = (
            f"Reserve nothing for the actor or task (num_cpus=0, num_gpus=0), {fewer}, or train within it "
            "(num_workers=0)."
        )
    return "\n".join(
        [
            f"No room for {wish(wait.args, wait.wanted)}{why}",
            f"{wait.state} Taken by:",
            *(f"  - {line}" for line in wait.held_by),
            advice,
        ]
    )


def smaller_text(args: TrainingArguments, whole: Allocation, got: Allocation, own: dict[str, float]) -> str:
    """The note about fewer workers, or about a default share that is smaller than usual.

    Args:
        args: How many workers were asked for.
        whole: What the workers would have in an idle cluster.
        got: What they have.
        own: What the actor or task in which the trainer runs reserved.
    """
    if got.num_workers != whole.num_workers and args.is_elastic:
        return fewer_text(args, whole.num_workers, got)
    if got.num_workers != whole.num_workers:
        return (
            f"others hold GPUs of this cluster: training on the {got.num_workers} of {whole.num_workers} that are "
            "free. Set num_workers to wait for more"
        )
    if got.shared_cores:
        return (
            f"no CPU is free for workers (num_workers={got.num_workers}), so they use those that the actor or task of "
            f"this trainer reserved ({listed(own)})"
        )
    return (
        f"others hold CPUs of this cluster: each worker gets {listed(got.resources_per_worker)} of at most "
        f"{listed(whole.resources_per_worker)}. Set resources_per_worker to wait for more"
    )


def fewer_text(args: TrainingArguments, asked: int, got: Allocation) -> str:
    """The note about an elastic run with fewer workers than were waited for.

    Args:
        args: How long.
        asked: How many were waited for.
        got: What it has.
    """
    return (
        f"no room for {asked} workers with {got.each} each came within {args.elastic_timeout_s:g} s "
        f"(elastic_timeout_s): training on {got.num_workers}, in batches of the same size, until there is more"
    )


def _total(resources: Sequence[dict[str, float]], names: Collection[str]) -> dict[str, float]:
    return {name: sum(one.get(name, 0.0) for one in resources) for name in sorted(names)}
