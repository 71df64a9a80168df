"""Trains with a token id beyond the vocabulary, and writes the notes of the error that the GPU reports late.

Usage: late.py TARGET DIRECTORY. A process of its own, since nothing works on a GPU after such an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import raytrainer
from tests.gpu.test_synchronization import make_masked_samples, make_silent_model
from tests.gpu.twins import make_gpu_trainer


def main() -> None:
    """Train until the GPU reports the error."""
    samples = make_masked_samples()
    samples[13] = {**samples[13], "input_ids": torch.full((16,), 300)}
    trainer = make_gpu_trainer(
        raytrainer,
        Path(sys.argv[2]),
        model=make_silent_model(),
        samples=samples,
        max_steps=12,
        logging_steps=12,
        train_sampling_strategy="sequential",
    )
    try:
        trainer.train()
    except Exception as error:
        found = {"error": str(error)[:200], "notes": list(error.__notes__)}
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
