"""What an elastic run draws at random: the same on any number of ranks.

Where the number of ranks may change, the random state of a rank cannot decide what dropout draws. So a rank is seeded
from the seed, the step and the micro-batch's index in the step before each forward pass, and from the seed and the step
between two steps. Samples are seeded likewise (``data.draws``). On a fixed number of ranks nothing is seeded here:
numbers are those of ``transformers``.
"""

from __future__ import annotations

import torch

from raytrainer.data.position import own_generators
from raytrainer.loop.run import TrainRun
from raytrainer.random_state import HostRandomState, kept, seed_host, seed_of


def seed_micro_batch(run: TrainRun, turn: int) -> None:
    """Seed this rank for the forward pass of the micro-batch that it takes in a turn of the step."""
    dealing = run.plan.dealing
    if dealing is not None:
        step = run.trainer.state.global_step + 1
        _seed(seed_of(run.args.seed, "micro-batch", step, dealing.number_in_step(turn)))


def seed_between_steps(run: TrainRun) -> None:
    """Seed this rank for what callbacks and evaluations draw after a step, and before the first one."""
    if run.plan.dealing is not None:
        _seed(seed_of(run.args.seed, "step", run.trainer.state.global_step))


def epoch_state(run: TrainRun, epoch: int) -> HostRandomState:
    """The random state with which an epoch begins, on every rank."""
    own, seed = own_generators(run.loader), seed_of(run.args.seed, "epoch", epoch)
    with kept(own):
        seed_host(seed)
        own.seed(seed)
        return HostRandomState.now(own)


def _seed(seed: int) -> None:
    """Seed Python, numpy and torch, on the CPU and on GPUs."""
    seed_host(seed)
    torch.manual_seed(seed)
