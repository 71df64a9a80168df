"""Trains on ranks of torchrun, or in this process, and returns the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.sharding.rank import train
from tests.torchrun import torchrun

OF_THE_RUN = ("resume", "num_samples", "model", "classifies", "drifts")


def launch(
    num_ranks: int, directory: Path, runs: dict[str, dict[str, Any]], *, timeout_s: int = 240
) -> dict[str, Any]:
    """Train several runs in one process group; a single rank without sharding is this process.

    Args:
        num_ranks: Number of ranks.
        directory: Each run's ``output_dir`` is a subdirectory with the name of the run.
        runs: Options by name; ``resume`` is the checkpoint to begin from, ``num_samples`` the size of the dataset,
            ``model`` a directory, ``classifies`` takes a classifier.
        timeout_s: Timeout of all runs together [s].
    """
    listed = [
        {
            "name": name,
            "output_dir": str(directory / name),
            "resume": options.get("resume"),
            # By default no partial step: how it is padded depends on the number of ranks.
            "num_samples": options.get("num_samples", 48),
            "model": options.get("model"),
            "drifts": options.get("drifts", False),
            "classifies": options.get("classifies", False),
            "options": {key: value for key, value in options.items() if key not in OF_THE_RUN},
        }
        for name, options in runs.items()
    ]
    if num_ranks == 1 and not any({"fsdp", "deepspeed"} & set(run) for run in runs.values()):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return {run["name"]: train(run, num_workers=0) for run in listed}
        finally:
            torch.set_num_threads(threads)
    target = directory / f"results-{num_ranks}.json"
    return torchrun(
        "sharding/rank.py",
        [str(target), json.dumps(listed)],
        target=target,
        num_ranks=num_ranks,
        timeout_s=timeout_s,
    )
