"""``debug="sample_ledger"``: which samples each step used, and whether an epoch used each one once.

What is written are the indices with which the dataset was read, not those with which it was to be read. At the end of
each epoch rank 0 reads what all ranks and all attempts of the run wrote, and compares it with the rule of the sampler.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from raytrainer.arguments.debugging import keeps_ledger
from raytrainer.data.ledger_files import NAME, LedgerLine, StepUse, append_line, new_attempt, read_epoch
from raytrainer.data.loader import RankDataLoader
from raytrainer.data.use_rule import Faults, faults_of, rule_of
from raytrainer.errors import EngagementError
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun

_MAX_IDS = 64


def open_ledger(run: TrainRun, directory: Path) -> None:
    """All ranks, before the first step: begin a ledger below a directory, if ``debug`` asks for it.

    What cannot be checked is said now.
    """
    if not keeps_ledger(run.args):
        return
    rule = rule_of(run.loader)
    if rule.unknown:
        tell(run.runtime, f"sample ledger: nothing is checked, because {rule.unknown}.")
    elif rule.is_partial:
        tell(run.runtime, f"sample ledger: it is checked that {rule.is_partial}.", level="info")
    if not isinstance(run.loader, RankDataLoader):
        return
    made = None
    if run.runtime.rank == 0:
        made = str(new_attempt(directory, run.trainer.state.global_step))
    run.ledger = Path(run.runtime.broadcast(made or ""))


def record_step(run: TrainRun, num_micro_batches: int) -> None:
    """This rank, after a step and before anything is saved: write which samples it used.

    Args:
        run: The run.
        num_micro_batches: Micro-batches of the step.
    """
    if run.ledger is None:
        return
    used = run.loader.samples_used(num_micro_batches)
    line = LedgerLine(
        step=run.trainer.state.global_step,
        epoch=run.cursor.epoch,
        samples=[_plain(one) for one in used.samples],
        fill_ups=[_plain(one) for one in used.fill_ups],
    )
    append_line(run.ledger, line, rank=run.runtime.rank, world_size=run.runtime.world_size)


def check_ledger_of_epoch(run: TrainRun, *, is_whole: bool) -> None:
    """All ranks, when an epoch ends: see whether each sample was used once, and say so.

    Args:
        run: The run.
        is_whole: The data of the epoch are used up. If not, no sample may have been used twice.

    Raises:
        EngagementError: On all ranks, with the indices, if not.
    """
    if run.ledger is None or run.cursor.micro_batches == 0:
        return
    run.runtime.barrier()  # All lines are written.
    verdict = ("", "")
    if run.runtime.rank == 0:
        verdict = verdict_on(run, run.ledger.parent.parent, is_whole=is_whole)
    failure, text = run.runtime.broadcast(verdict)
    if failure:
        raise EngagementError(failure)
    if text:
        tell(run.runtime, text, level="info")


def verdict_on(run: TrainRun, directory: Path, *, is_whole: bool) -> tuple[str, str]:
    """Rank 0: what is wrong with the epoch in progress, and otherwise what is right; both may be empty.

    Args:
        run: The run.
        directory: Of the run.
        is_whole: The data of the epoch are used up.
    """
    epoch, last = run.cursor.epoch, run.trainer.state.global_step
    rule = rule_of(run.loader)
    if rule.unknown:
        return "", ""
    uses = read_epoch(directory, epoch)
    steps = run.cursor.micro_batches / run.plan.accumulation
    first = last - (math.ceil(steps) if is_whole else math.floor(steps)) + 1
    missing = [step for step in range(first, last + 1) if step not in uses or not uses[step].is_whole]
    if missing:
        return "", (
            f"sample ledger: epoch {epoch} is not checked, because nothing was written for {_listed(missing, 'step')}: "
            "an earlier part of the run had no ledger."
        )
    if not uses:
        return "", ""
    faults = faults_of(
        (one for use in uses.values() for line in use.lines.values() for one in line.samples), rule
    )
    if not is_whole:
        faults = replace(faults, unused=[], num_unused=0, num_left_out=0)
    if faults:
        return describe_faults(epoch, faults, uses, directory / NAME), ""
    return "", describe_epoch(epoch, uses, faults, is_whole=is_whole)


def describe_faults(epoch: int, faults: Faults, uses: dict[int, StepUse], where: Path) -> str:
    """What a person reads when samples were lost or used twice.

    Args:
        epoch: Index of the epoch.
        faults: What is wrong.
        uses: The steps of the epoch.
        where: The ledger.
    """
    parts: list[str] = []
    if faults.num_unused != faults.num_left_out:
        of_which = f", and {faults.num_left_out} were to be left out" if faults.num_left_out else ""
        parts.append(f"{faults.num_unused} were never used ({_listed(faults.unused)}{of_which})")
    if faults.repeated:
        parts.append(
            f"{len(faults.repeated)} were used more than once ({_with_steps(faults.repeated, uses)})"
        )
    return (
        f"sample ledger: in epoch {epoch} not every sample was used once: {'; '.join(parts)}. What each worker used in "
        f"each step is in {where}."
    )


def describe_epoch(epoch: int, uses: dict[int, StepUse], faults: Faults, *, is_whole: bool) -> str:
    """What a person reads when all is well.

    Args:
        epoch: Index of the epoch.
        uses: Its steps.
        faults: Nothing is wrong.
        is_whole: The data of the epoch are used up.
    """
    lines = [line for use in uses.values() for line in use.lines.values()]
    count, fill_ups = sum(len(line.samples) for line in lines), sum(len(line.fill_ups) for line in lines)
    sizes = sorted({use.world_size for use in uses.values()})
    more = f", {fill_ups} more filled up the last round" if fill_ups else ""
    less = f", {faults.num_left_out} left out (dataloader_drop_last)" if faults.num_left_out else ""
    plural = "s" if sizes != [1] else ""
    on = f"({len(uses)} step{'s' if len(uses) > 1 else ''} on {' and '.join(map(str, sizes))} worker{plural})"
    if not is_whole:
        return (
            f"sample ledger: epoch {epoch} was not finished; none of its {count} samples was used twice {on}."
        )
    return f"sample ledger: epoch {epoch}: each of {count} samples was used once{more}{less} {on}."


def _with_steps(indices: list[Any], uses: dict[int, StepUse]) -> str:
    """Indices, with the steps in which each was used."""
    said: list[str] = []
    for index in indices[:_MAX_IDS]:
        steps = [
            step for step, use in sorted(uses.items()) for line in use.lines.values() if index in line.samples
        ]
        said.append(f"{index} in {_listed(steps, 'step')}")
    more = f" and {len(indices) - _MAX_IDS} more" if len(indices) > _MAX_IDS else ""
    return "; ".join(said) + more


def _listed(numbers: list[Any], name: str = "") -> str:
    more = f" and {len(numbers) - _MAX_IDS} more" if len(numbers) > _MAX_IDS else ""
    plural = f"{name}{'s' if len(numbers) > 1 else ''} " if name else ""
    return f"{plural}{', '.join(map(str, numbers[:_MAX_IDS]))}{more}"


def _plain(index: Any) -> Any:
    """An index as JSON holds it."""
    return (
        index if isinstance(index, int | str) else int(index) if hasattr(index, "__index__") else str(index)
    )
