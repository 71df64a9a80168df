"""Breaks one of two ranks at chosen operations on the disk of a save, and looks at what is left.

    python -m tests.faults.rank_faults DIR SEED JSON

JSON says how many operations of which kind are tried with which backend, such as {"fsdp": {"kill": 4}}; 0 is all:

    kill    the rank is killed by SIGKILL
    ENOSPC  from then on the rank can write no file
    EROFS   from then on the rank can change nothing on the disk

The ranks of every run are forked from this process, which has imported everything. First a run that nothing disturbs
saves at steps 2, 4 and 6; a second one goes on from its first checkpoint, and lists the operations of each rank in the
save of step 4. A copy of the second run is broken at each of the operations, and then goes on to step 6. Prints a JSON
line for each backend, which says what was engaged, and one for each operation: how both ranks ended, which checkpoint
was the newest, and everything that was not as it must be.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.scan import newest_checkpoint, verify_checkpoint
from raytrainer.checkpoint.tensor_files import read_tensors
from tests.checkpoint.disk import watch_disk, watch_tensor_files
from tests.faults.victims import augmented, make_trainer

NUM_RANKS, NUM_STEPS, SAVE_STEPS, BROKEN_STEP = 2, 6, 2, 4
PATIENCE_S = 120.0
"""How long two ranks may take, whatever happens to one of them [s]."""
FAILED, HUNG = 3, -signal.SIGALRM
"""How a rank ends whose ``train()`` raised, and one that had to be killed."""
BACKENDS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"fsdp": "full_shard"},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}


@dataclass(frozen=True)
class Point:
    """Where a rank breaks."""

    rank: int
    number: int
    """Of the operation, among those of this rank in this save."""
    what: str
    kind: str


@dataclass
class Seen:
    """What one point did."""

    backend: str
    point: Point
    ended: list[int] = field(default_factory=list)
    """Status of each rank, negative for a signal."""
    errors: list[str] = field(default_factory=list)
    """What ``train()`` raised on each rank, if it did."""
    seconds: float = 0.0
    newest: str | None = None
    mistakes: list[str] = field(default_factory=list)


class Disk:
    """Counts the operations of a save on this rank, and breaks at one of them."""

    def __init__(self, point: Point | None) -> None:
        self.point = point
        self.operations: list[str] = []
        self.saving: int | None = None
        """The thread that saves."""
        self.is_broken = False

    def __call__(self, what: str, written: Path | None = None) -> None:
        if self.is_broken:
            if self.point is not None and (
                self.point.kind == "EROFS" or what.split()[0] in ("open", "write", "mkdir")
            ):
                self._fail()
            return
        if self.saving != threading.get_ident():
            return
        self.operations.append(what)
        if self.point is None or len(self.operations) - 1 != self.point.number:
            return
        self.saving = None
        if written is not None:
            os.truncate(written, written.stat().st_size // 2)
        if self.point.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.is_broken = True
        self._fail()

    def _fail(self) -> None:
        assert self.point is not None
        number = getattr(errno, self.point.kind)
        raise OSError(number, os.strerror(number))


def rank_of(directory: Path, backend: str, rank: int, point: Point | None, *, resume: bool) -> int:
    """One rank: train to the last step, or to where it breaks."""
    torch.set_num_threads(1)
    disk = Disk(point if point is not None and point.rank == rank else None)
    trainer = augmented(
        make_trainer(
            directory / "run",
            max_steps=NUM_STEPS,
            save_steps=SAVE_STEPS,
            eval_strategy="no",
            save_total_limit=1 if resume else None,
            report_page=False,
            **BACKENDS[backend],
        )
    )
    save = trainer._save_checkpoint

    def watched_save(*args: Any, **kwargs: Any) -> None:
        disk.saving = threading.get_ident() if trainer.state.global_step == BROKEN_STEP else None
        try:
            save(*args, **kwargs)
        finally:
            disk.saving = None

    trainer._save_checkpoint = watched_save
    watch_disk(directory / "run", disk)
    watch_tensor_files(disk)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except Exception as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        _tell(directory, rank, {"error": {"type": type(error).__name__, "text": str(error)}})
        return FAILED
    losses = [[log["step"], log["loss"]] for log in trainer.state.log_history if "loss" in log]
    _tell(
        directory,
        rank,
        {"losses": losses, "operations": disk.operations, "wrapper": type(trainer.model_wrapped).__name__},
    )
    trainer.end()
    dist.destroy_process_group()
    return 0


def _tell(directory: Path, rank: int, what: dict[str, Any]) -> None:
    descriptor = os.open(f"{directory}/rank-{rank}.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, json.dumps(what).encode())


class Ranks:
    """Starts the ranks of one run after the other; they find each other over a store of this process."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def run(self, directory: Path, point: Point | None = None, *, resume: bool) -> tuple[list[int], float]:
        """Run both ranks to their ends.

        Returns:
            How they ended, negative for a signal; and how long it took [s].
        """
        began = time.monotonic()
        store = dist.TCPStore("127.0.0.1", 0, is_master=True)
        children = [
            self._fork(directory, rank, store.port, point, resume=resume) for rank in range(NUM_RANKS)
        ]
        ended: dict[int, int] = {}
        while len(ended) < NUM_RANKS:
            for child in set(children) - ended.keys():
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    ended[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() - began > PATIENCE_S:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    ended[child] = HUNG
            time.sleep(0.01)
        return [ended[child] for child in children], time.monotonic() - began

    def _fork(self, directory: Path, rank: int, port: int, point: Point | None, *, resume: bool) -> int:
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(NUM_RANKS),
                LOCAL_WORLD_SIZE=str(NUM_RANKS),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                TORCHELASTIC_USE_AGENT_STORE="True",
            )
            log = os.open(f"{directory}/rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            faulthandler.dump_traceback_later(PATIENCE_S - 5, file=2)
            status = rank_of(directory, self.backend, rank, point, resume=resume)
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)


def told(directory: Path) -> list[dict[str, Any]]:
    """What the ranks of a run have told."""
    files = [directory / f"rank-{rank}.json" for rank in range(NUM_RANKS)]
    return [json.loads(file.read_text() or "{}") if file.exists() else {} for file in files]


def content(checkpoint: Path) -> dict[str, str]:
    """What the files of tensors hold, which must be the same in every run; their bytes need not be."""
    found: dict[str, str] = {}
    for name in read_manifest(checkpoint).files:
        if name.endswith(".safetensors"):
            found[name] = repr(_plain(read_tensors(checkpoint / name)))
        elif name.endswith((".pt", ".pth")):
            found[name] = repr(_plain(torch.load(checkpoint / name, weights_only=False)))
    assert {Path(name).suffix for name in found} >= {".safetensors", ".pt", ".pth"}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in sorted(value.items(), key=str)}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value


class Backend:
    """Tries operations with one backend.

    Args:
        name: Of the backend.
        root: Gets a directory for each run.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root
        self.ranks = Ranks(name)
        self.count = 0
        quiet = root / "quiet"
        quiet.mkdir(parents=True)
        assert self.ranks.run(quiet, resume=False)[0] == [0, 0], told(quiet)
        self.whole = {step: content(quiet / f"run/checkpoint-{step}") for step in (2, 4, 6)}
        self.losses = [one["losses"] for one in told(quiet)]
        assert [step for step, _ in self.losses[0]] == list(range(1, NUM_STEPS + 1))
        listing = self.copy()
        assert self.ranks.run(listing, resume=True)[0] == [0, 0], told(listing)
        assert not self.differences(listing / "run/checkpoint-6"), self.differences(
            listing / "run/checkpoint-6"
        )
        self.operations: list[list[str]] = [one["operations"] for one in told(listing)]
        (renamed,) = [number for number, what in enumerate(self.operations[0]) if what.startswith("rename .")]
        self.committed = renamed + 1
        """The last operation of rank 0 that belongs to the commit; from then on the oldest checkpoint is deleted."""
        self.wrapper: str = told(quiet)[0]["wrapper"]

    def copy(self) -> Path:
        """A directory with the first checkpoint of the undisturbed run."""
        self.count += 1
        directory = self.root / str(self.count)
        shutil.copytree(self.root / "quiet/run/checkpoint-2", directory / "run/checkpoint-2")
        return directory

    def differences(self, checkpoint: Path) -> list[str]:
        """What is not as in the undisturbed run."""
        found, expected = content(checkpoint), self.whole[int(checkpoint.name.rpartition("-")[2])]
        names = sorted(
            name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
        )
        return [f"{checkpoint.name} differs from that of the quiet run in {names}"] if names else []

    def choose(self, kind: str, count: int, seed: str) -> list[Point]:
        """Operations of the ranks in turn, at random; all for a count of 0."""
        draws = random.Random(f"{seed} {self.name} {kind}")
        points = [
            [Point(rank, number, what, kind) for number, what in enumerate(self.operations[rank])]
            for rank in range(NUM_RANKS)
        ]
        if not count:
            return [point for of_rank in points for point in of_rank]
        return [
            point
            for rank, of_rank in enumerate(points)
            for point in draws.sample(of_rank, (count + 1 - rank) // NUM_RANKS)
        ]

    def attempt(self, point: Point) -> Seen:
        """Break one run, and let it go on."""
        directory = self.copy()
        seen = Seen(self.name, point)
        seen.ended, seen.seconds = self.ranks.run(directory, point, resume=True)
        after = told(directory)
        seen.errors = ["{type}: {text}".format(**one["error"]) if "error" in one else "" for one in after]
        seen.mistakes += wrong_ends(
            seen, directory, is_committed=point.rank == 0 and point.number > self.committed
        )
        newest = newest_checkpoint(directory / "run", report=seen.mistakes.append)
        seen.newest = newest and newest.name
        if newest is None or newest.name not in ("checkpoint-2", "checkpoint-4"):
            seen.mistakes.append(f"the newest checkpoint is {seen.newest}")
        else:
            verify_checkpoint(newest)
            seen.mistakes += self.differences(newest)
        ended, _ = self.ranks.run(directory, resume=True)
        if ended != [0, 0]:
            seen.mistakes.append(f"the resumed run ended with {ended}: {told(directory)}")
        else:
            seen.mistakes += self.differences(directory / "run/checkpoint-6")
            if [one["losses"] for one in told(directory)] != self.losses:
                seen.mistakes.append("the losses of the resumed run are not those of the quiet one")
        if not seen.mistakes:
            shutil.rmtree(directory)
        return seen


def wrong_ends(seen: Seen, directory: Path, *, is_committed: bool) -> list[str]:
    """What is wrong with how the ranks ended.

    Args:
        seen: The operation, and how they ended.
        directory: Of the run.
        is_committed: The save was complete, so that a broken disk is noticed in the next one.
    """
    point = seen.point
    if HUNG in seen.ended:
        return ["a rank did not end"]
    if point.kind == "kill":
        is_right = seen.ended[point.rank] == -signal.SIGKILL and seen.ended[1 - point.rank] == FAILED
        return [] if is_right else [f"the ranks ended with {seen.ended}"]
    if seen.ended != [FAILED] * NUM_RANKS or len(set(seen.errors)) != 1:
        return [f"the ranks ended with {seen.ended} and {seen.errors}"]
    step = NUM_STEPS if is_committed else BROKEN_STEP
    expected = f"CheckpointError: {directory}/run/checkpoint-{step} was not saved, because rank {point.rank} failed: "
    text = seen.errors[0]
    causes = os.strerror(getattr(errno, point.kind)), "unexpected pos"
    is_right = text.startswith(expected) and any(cause in text for cause in causes)
    return [] if is_right else [f"the error is {text}"]


def main() -> None:
    root, seed, wanted = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    gc.freeze()  # a collection in a forked process, of which DeepSpeed makes several, would copy all that is imported
    for name, kinds in wanted.items():
        backend = Backend(name, root / name)
        engaged = {"backend": name, "wrapper": backend.wrapper, "operations": backend.operations}
        print(json.dumps(engaged), flush=True)
        for kind, count in kinds.items():
            for point in backend.choose(kind, count, seed):
                print(json.dumps(asdict(backend.attempt(point))), flush=True)


if __name__ == "__main__":
    main()
