"""Which checkpoint a run resumes from.

Storage decides: the newest checkpoint is the newest of the newest run (``ownership``) that verifies, found by looking
and never remembered. A damaged one is skipped with a message and the one before it is tried, so files are hashed from
the newest checkpoint down until one is intact. Nothing here loads anything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from raytrainer.checkpoint.converted import converted_weights
from raytrainer.checkpoint.durable_writes import discard, sync_directory
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.model_match import check_matches_model
from raytrainer.checkpoint.names import (
    LAST_CHECKPOINT_NAME,
    LOOP_STATE_NAME,
    MANIFEST_NAME,
    STATE_NAME,
    Leftover,
    checkpoint_name,
    list_checkpoints,
    list_leftovers,
    step_of,
)
from raytrainer.checkpoint.ownership import Found, listing, of_newest_run, report_of_others
from raytrainer.checkpoint.pickles import check_pickles
from raytrainer.checkpoint.regular_files import read_regular
from raytrainer.checkpoint.replaced import run_of, settle_replaced
from raytrainer.checkpoint.verify import check_complete, check_files, is_ours, mtime_of, verify_checkpoint
from raytrainer.errors import CheckpointError

__all__ = [
    "check_matches_model",
    "check_resumable",
    "checkpoints_of_others",
    "named_checkpoint",
    "newest_checkpoint",
    "sweep_leftovers",
    "verify_checkpoint",
]

logger = logging.getLogger(__name__)


def newest_checkpoint(
    run_dir: Path, *, run_id: str | None = None, report: Callable[[str], None], has_weights: bool = True
) -> Path | None:
    """Find the newest intact checkpoint of a run directory.

    Args:
        run_dir: Where the checkpoints are; need not exist.
        run_id: Only take what this run committed. None: take any, also what transformers wrote, and the copy of the
            newest checkpoint on the Hub, if it was downloaded.
        report: Called with one sentence for every checkpoint that is skipped because it is damaged, and for one that
            is used although nothing proves that it is intact.
        has_weights: Whether one without a model's weights is incomplete.
    """
    if run_id is not None:
        return _newest_of(run_dir, run_id, report)
    found, damaged = _look_at(with_fetched(run_dir))
    for one in (candidates := of_newest_run(found)):
        while damaged and damaged[-1][0] > one.step:
            report(damaged.pop()[1])
        path = run_dir / one.name
        try:
            if is_ours(path):
                verify_checkpoint(path)
                check_pickles(path)
            else:
                check_complete(path, needs_optimizer=True, has_weights=has_weights)
                report(
                    f"{path.name} has no {MANIFEST_NAME}, as raytrainer writes it; its files look complete, but their "
                    "content is unverified."
                )
        except CheckpointError as error:
            report(f"{path.name} is skipped: {error}")
            continue
        report_of_others(found, candidates, one, report)
        return path
    for _, text in reversed(damaged):
        report(text)
    return None


def _newest_of(run_dir: Path, run_id: str, report: Callable[[str], None]) -> Path | None:
    for path in reversed(list_checkpoints(run_dir)):
        try:
            if not is_ours(path):
                raise CheckpointError(f"it has no {MANIFEST_NAME}, so this run did not commit it.")
            if read_manifest(path).run_id != run_id:
                continue
            verify_checkpoint(path)
            check_pickles(path)
        except CheckpointError as error:
            report(f"{path.name} is skipped: {error}")
            continue
        return path
    return None


def _look_at(paths: Sequence[Path]) -> tuple[list[Found], list[tuple[int, str]]]:
    """What is known about checkpoints without reading their files; and those of which nothing is, by ascending step.

    Returns:
        Those that name their run or that transformers wrote; steps of others, with what is to be said about them.
    """
    found: list[Found] = []
    damaged: list[tuple[int, str]] = []
    for path in paths:
        try:
            if is_ours(path):
                found.append(Found.of(path.name, read_manifest(path)))
            else:
                step = step_of(path)
                found.append(
                    Found(
                        name=path.name,
                        step=_state_step(path) if step is None else step,
                        saved_at=mtime_of(path),
                    )
                )
        except CheckpointError as error:
            damaged.append((step_of(path) or 0, f"{path.name} is skipped: {error}"))
    return found, damaged


def checkpoints_of_others(run_dir: Path, owners: Collection[str]) -> list[str]:
    """The names of the checkpoints in a run directory that were not saved by some runs, the oldest first."""
    return [path.name for path in list_checkpoints(run_dir) if run_of(path) not in owners]


def with_fetched(run_dir: Path) -> list[Path]:
    """The checkpoints of a run directory, and ``last-checkpoint`` where its step puts it; the oldest first."""
    found = list_checkpoints(run_dir)
    fetched = run_dir / LAST_CHECKPOINT_NAME
    if not fetched.is_dir():
        return found
    step = _state_step(fetched)
    older = [path for path in found if (step_of(path) or 0) < step]
    return [*older, fetched, *found[len(older) :]]


def _state_step(path: Path) -> int:
    """The step in a checkpoint's state; -1 if it is damaged, so that it is tried last, and skipped with a reason."""
    try:
        return int(json.loads(read_regular(path / STATE_NAME))["global_step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return -1


AUTO = "auto"
"""As ``resume_from_checkpoint``: the newest checkpoint, or the beginning of a new run where there is none."""


def requested_checkpoint(
    run_dir: Path,
    requested: str | bool | None,
    *,
    report: Callable[[str], None],
    has_weights: bool = True,
) -> Path | None:
    """Find the checkpoint that ``train(resume_from_checkpoint=...)`` asks for.

    Args:
        run_dir: The run's ``output_dir``.
        requested: None or False for none, True for the newest, "auto" for the newest if there is one, or a path.
        report: Called with one sentence for every checkpoint that is skipped because it is damaged.
        has_weights: Whether one without a model's weights is incomplete.

    Returns:
        A checkpoint that was verified; None for a run from the beginning.

    Raises:
        CheckpointError: If there is nothing to resume from, although it was asked for or checkpoints are there.
    """
    if requested is None or requested is False:
        return None
    if requested is not True and requested != AUTO:
        checkpoint = named_checkpoint(run_dir, requested)
        check_resumable(checkpoint, has_weights=has_weights)
        return checkpoint
    newest = newest_checkpoint(run_dir, report=report, has_weights=has_weights)
    if newest is None:
        paths = with_fetched(run_dir)
        check_may_begin(run_dir, requested, [path.name for path in paths], known=_look_at(paths)[0])
    return newest


def check_may_begin(
    run_dir: object, requested: str | bool, names: Sequence[str], *, known: Sequence[Found]
) -> None:
    """Check that a run that found no valid checkpoint may start from the beginning.

    Args:
        run_dir: Where it looked.
        requested: True or "auto".
        names: The checkpoints that are there.
        known: What is known about those of them whose manifests can be read.

    Raises:
        CheckpointError: If True asked for one, or if there are checkpoints that cannot be used.
    """
    tried = {one.name for one in of_newest_run(known)}
    others = [one.name for one in known if one.name not in tried]
    hint = (
        f" {listing(others)} of earlier runs can be named, if you want to go on with those." if others else ""
    )
    if requested is True:
        raise CheckpointError(
            f"No valid checkpoint found in output directory ({run_dir}), as resume_from_checkpoint=True asks for. "
            'Call train() without it to start from the beginning, with "auto" to do so only where there is no '
            f"checkpoint, or pass the path of a checkpoint.{hint}"
        )
    if names:
        damaged = [name for name in names if name not in others]
        raise CheckpointError(
            f'resume_from_checkpoint="auto" found no valid checkpoint in {run_dir}, but damaged ones: '
            f"{', '.join(damaged)}. The warnings above say what each lacks. Repair or remove them, or call train() "
            f"without the argument to start from the beginning.{hint}"
        )


def named_checkpoint(run_dir: Path, name: str | Path) -> Path:
    """What a user means by a path; ``last-checkpoint`` may be in the run directory."""
    path = Path(name)
    if str(name) == LAST_CHECKPOINT_NAME and not path.exists():
        return run_dir / LAST_CHECKPOINT_NAME
    return path


def check_resumable(path: Path, *, has_weights: bool = True) -> None:
    """Check, before anything starts, that a run can resume from the path that a user named.

    Args:
        path: The path.
        has_weights: Whether a checkpoint without a model's weights is incomplete.

    Raises:
        CheckpointError: If it cannot; says what was found, what was expected, and which checkpoints are nearby.
    """
    if not path.exists():
        raise CheckpointError(
            f"Can't find a valid checkpoint at {path}: resume_from_checkpoint={str(path)!r} does not exist. "
            f"{_checkpoints_in(path.parent)}"
        )
    if not path.is_dir():
        raise CheckpointError(
            f"resume_from_checkpoint={str(path)!r} is a file, and a checkpoint is a directory. "
            f"{_checkpoints_in(path.parent)}"
        )
    try:
        names = {child.name for child in path.iterdir()}
    except OSError as error:
        raise CheckpointError(f"resume_from_checkpoint={str(path)!r} cannot be read: {error}") from error
    if not names:
        raise CheckpointError(
            f"resume_from_checkpoint={str(path)!r} is an empty directory. {_checkpoints_in(path.parent)}"
        )
    if MANIFEST_NAME not in names and STATE_NAME not in names:
        inside = list_checkpoints(path)
        raise CheckpointError(
            f"resume_from_checkpoint={str(path)!r} is not a checkpoint: it has neither {MANIFEST_NAME} nor "
            f"{STATE_NAME}. {_checkpoints_in(path if inside else path.parent)}"
        )
    try:
        if is_ours(path):
            check_named(path)
        else:
            check_complete(path, needs_optimizer=False, has_weights=has_weights)
    except CheckpointError as error:
        changed = (
            f"If you changed its files on purpose, delete {MANIFEST_NAME} and {LOOP_STATE_NAME} in it: then it is read "
            "as one of transformers, whose content nobody can check. "
            if is_ours(path)
            else ""
        )
        raise CheckpointError(
            f"resume_from_checkpoint={str(path)!r} cannot be used. {error} {changed}"
            f"{_checkpoints_in(path.parent, besides=path)}"
        ) from error


def check_named(path: Path) -> None:
    """Check a checkpoint of ours that a user named: as it was committed, or with its weights in other files.

    Raises:
        CheckpointError: If it is damaged.
    """
    manifest = read_manifest(path)
    converted = converted_weights(path, manifest)
    if converted is None:
        check_files(path, manifest.files)
        check_pickles(path)
        return
    gone, files = converted
    check_files(path, {name: record for name, record in manifest.files.items() if name not in gone})
    logger.warning(
        "The weights of %s are in %s, not in %s as they were saved. They are used, but their content is unverified.",
        path,
        ", ".join(sorted(file.name for file in files)),
        ", ".join(sorted(gone)),
    )


def sweep_leftovers(run_dir: Path) -> None:
    """Rank 0, before an attempt starts: delete what killed saves and deletions left behind.

    A checkpoint that was moved aside for a new one of its step, which then never came, gets its name back.

    Raises:
        CheckpointError: If the directory cannot be read or changed.
    """
    try:
        for leftover in list_leftovers(run_dir):
            if leftover.kind == "replaced":
                _settle_replaced(run_dir, leftover)
            else:
                discard(leftover.path, leftover.step)
    except OSError as error:
        raise CheckpointError(
            f"What interrupted saves left in {run_dir} cannot be deleted: {error}"
        ) from error


def _settle_replaced(run_dir: Path, leftover: Leftover) -> None:
    final = run_dir / checkpoint_name(leftover.step)
    if not _is_whole(final) and _is_whole(leftover.path):
        if final.exists():
            discard(final, leftover.step)
        leftover.path.rename(final)
        sync_directory(run_dir)
        logger.warning("%s was restored, because the save that should have replaced it was killed.", final)
    elif final.is_dir():
        settle_replaced(leftover.path, leftover.step, _owners_of(final))
    else:
        discard(leftover.path, leftover.step)


def _owners_of(path: Path) -> Collection[str]:
    try:
        return read_manifest(path).owners
    except CheckpointError:
        return ()


def _is_whole(path: Path) -> bool:
    if not path.is_dir():
        return False
    try:
        if is_ours(path):
            verify_checkpoint(path)
        else:
            check_complete(path, needs_optimizer=False)
    except CheckpointError:
        return False
    return True


def _checkpoints_in(directory: Path, besides: Path | None = None) -> str:
    """List the checkpoints that a user could have meant."""
    names = [path.name for path in reversed(list_checkpoints(directory)) if path != besides]
    directory = directory if directory.parts else directory.resolve()  # "." and the end of a sentence
    if not names:
        if besides:
            return f"There is no other checkpoint in {directory}."
        return f"There is no checkpoint in {directory}. Leave resume_from_checkpoint out to begin anew."
    more = f" and {len(names) - 5} older" if len(names) > 5 else ""
    return f"In {directory} there are {', '.join(names[:5])}{more}; name one of them."
