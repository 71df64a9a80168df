"""A run into a bucket that a test kills: ``python victim.py URI``; its last line is a hash of the weights."""

from __future__ import annotations

import hashlib
import sys

import torch

import raytrainer
from tests.parity.twins import make_trainer


def digest(model: torch.nn.Module) -> str:
    """Of all weights."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def train(location: str, **call: object) -> str:
    """Six steps with two saves."""
    trainer = make_trainer(
        raytrainer, location, max_steps=6, save_strategy="steps", save_steps=3, save_total_limit=1
    )
    trainer.train(**call)
    return digest(trainer.model)


if __name__ == "__main__":
    print(train(sys.argv[1]), flush=True)
