"""Which faults a soak tries, and in which runs: drawn from a seed, so that a run that failed can be repeated."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

NUM_STEPS = 12
SAVE_STEPS = 2
EVAL_STEPS = 6

BACKENDS = ("ddp", "fsdp", "zero2", "zero3")
LOADERS = (0, 1, 2)
RAYS = ("own", "cluster")

AT_A_STEP = (
    "kill worker at the end of a step",
    "kill worker before the optimizer's step",
    "kill loader",
    "kill control actor",
    "kill controller",
    "kill coordinator",
    "kill driver",
    "kill raylet",
    "interrupt driver",
    "interrupt driver twice",
    "terminate driver",
)
IN_A_SAVE = (
    "kill worker after its first file",
    "kill worker before the manifest",
    "kill worker after the manifest",
    "disk full",
    "slow disk",
)
IN_A_SAVE_BESIDE = (
    "kill worker while a save is staged",
    "kill worker while a file is written",
    "kill worker when a file is hashed",
    "kill worker after the rename",
    "kill worker some milliseconds after a save began",
)
"""In saves that are written beside training, besides those of every save."""
IN_AN_EVALUATION = ("kill worker in an evaluation",)
INSTEAD = {
    "own": {"kill coordinator": "kill control actor"},
    "cluster": {"kill raylet": "kill driver"},
}
"""What is tried instead: a Ray of the script's own has no coordinator, and that raylet is a cluster's only node."""
IN_THE_LOOP = dict.fromkeys(IN_A_SAVE_BESIDE, "kill worker after its first file")
BESIDE = {"kill worker after its first file": "kill worker while a file is written"}
"""What is tried instead where saves are written in the loop, and where they are written beside it."""
LONGEST_DELAY_S = 0.06
"""How long after a save began a worker may be killed; it takes about as long [s]."""
KINDS = AT_A_STEP + IN_A_SAVE + IN_A_SAVE_BESIDE + IN_AN_EVALUATION
"""Everything that a soak tries."""

ENDS_DRIVER = frozenset(
    {
        "kill driver",
        "kill raylet",
        "interrupt driver",
        "interrupt driver twice",
        "terminate driver",
        "disk full",
    }
)
"""After these the script may have to be started again, as its user would."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault; it happens once."""

    kind: str
    step: int
    rank: int
    delay_s: float = 0.0
    """[s]"""

    def __str__(self) -> str:
        where = f" of rank {self.rank}" if "worker" in self.kind or "loader" in self.kind else ""
        return f"{self.kind}{where} at {self.step}"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run without faults: those that share it have the same result."""

    backend: str
    num_loaders: int
    saves_beside: bool
    """Whether saves are written beside training."""

    def __str__(self) -> str:
        saves = "saves beside" if self.saves_beside else "saves in the loop"
        return f"{self.backend}, {self.num_loaders} loading processes, {saves}"


@dataclass(frozen=True, kw_only=True)
class Round:
    """A run with faults."""

    setup: Setup
    ray: str
    """Of the script itself, or a cluster's that it joins."""
    faults: tuple[Fault, ...]

    def to_json(self) -> str:
        """For the command line of a run."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Round:
        """What ``to_json`` wrote."""
        read = json.loads(text)
        faults = tuple(Fault(**one) for one in read["faults"])
        return cls(setup=Setup(**read["setup"]), ray=read["ray"], faults=faults)


def rounds(seed: int, *, saves_beside: bool = False) -> Iterator[Round]:
    """Rounds without end. Each kind of fault comes once before any comes again, in runs of all kinds.

    Args:
        seed: Decides everything.
        saves_beside: Whether all runs write their saves beside training; about half of them do otherwise.
    """
    draw = random.Random(seed)
    kinds: list[str] = []
    while True:
        if len(kinds) < 3:
            kinds += draw.sample(KINDS, len(KINDS))
        beside = draw.choice((False, True)) or saves_beside
        setup = Setup(backend=draw.choice(BACKENDS), num_loaders=draw.choice(LOADERS), saves_beside=beside)
        ray = draw.choice(RAYS)
        taken = [kinds.pop(0) for _ in range(draw.choice((1, 2, 3)))]
        taken = [INSTEAD[ray].get(kind, kind) for kind in taken]
        taken = [(BESIDE if beside else IN_THE_LOOP).get(kind, kind) for kind in taken]
        yield Round(setup=setup, ray=ray, faults=_faults(draw, setup, taken))


def _faults(draw: random.Random, setup: Setup, kinds: list[str]) -> tuple[Fault, ...]:
    faults: list[Fault] = []
    for kind in kinds:
        steps = _steps(kind)
        free = [step for step in steps if step not in {fault.step for fault in faults}]
        if kind == "kill loader" and not setup.num_loaders:
            kind = "kill worker at the end of a step"
        rank = draw.choice((0, 1)) if _has_rank(kind, setup) else 0
        delay_s = draw.uniform(0.0, LONGEST_DELAY_S) if "milliseconds" in kind else 0.0
        faults.append(Fault(kind=kind, step=draw.choice(free), rank=rank, delay_s=delay_s))
    return tuple(sorted(faults, key=lambda fault: fault.step))


def _steps(kind: str) -> list[int]:
    if kind in IN_A_SAVE + IN_A_SAVE_BESIDE:
        return list(range(SAVE_STEPS, NUM_STEPS, SAVE_STEPS))
    if kind in IN_AN_EVALUATION:
        return [EVAL_STEPS, 2 * EVAL_STEPS]
    return list(range(1, NUM_STEPS))


def _has_rank(kind: str, setup: Setup) -> bool:
    """Whether it can happen on any rank; the manifest, and what is not sharded, are written by rank 0."""
    if "manifest" in kind or "rename" in kind or "disk" in kind:
        return False
    return setup.backend != "ddp" or not any(what in kind for what in ("first file", "a file", "staged"))
