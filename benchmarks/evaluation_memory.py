"""How much memory `evaluate()` needs for 250 MB of logits, in raytrainer and in transformers.Trainer.

    python benchmarks/evaluation_memory.py

Each number is the growth of peak resident memory during one `evaluate()`, in a separate process, after a first small
evaluation has loaded everything that is loaded once. Pages of a mapped file count as memory, although the system may
reclaim them at any time. The model only returns logits, so the measurement shows what evaluation keeps.

whole       the metric needs all logits at once
ragged      the same, with batches of different widths, padded to the largest
streaming   batch_eval_metrics=True: the metric gets each batch
argmax      preprocess_logits_for_metrics keeps the predicted class only
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
import transformers

import raytrainer

VOCABULARY = 1000
WIDTH = 64
ROW_BYTES = VOCABULARY * WIDTH * 4
NUM_ROWS = 250_000_000 // ROW_BYTES
BATCH = 8
CASES = ("whole", "ragged", "streaming", "argmax")


class Logits(torch.nn.Module):
    """Returns logits in the shape of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return a loss and logits ``[batch, width, vocabulary]``."""
        logits = torch.full((*input_ids.shape, VOCABULARY), 0.5) + self.weight
        return {"loss": logits[0, 0, 0], "logits": logits}


def make_data(count: int, *, ragged: bool) -> list[dict[str, torch.Tensor]]:
    """Rows of tokens; ragged batches differ in width, up to the full one."""
    widths = [WIDTH - (index // BATCH) % 4 if ragged else WIDTH for index in range(count)]
    return [
        {"input_ids": torch.ones(w, dtype=torch.long), "labels": torch.ones(w, dtype=torch.long)}
        for w in widths
    ]


class Accuracy:
    """Computes accuracy over all batches at once or batch by batch; reads every logit."""

    def __init__(self) -> None:
        self.hits = self.count = 0

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add these predictions; return the accuracy at the end."""
        predictions, labels = prediction.predictions, prediction.label_ids
        for row, wanted in zip(predictions, labels, strict=True):
            found = row.argmax(-1) if row.ndim > 1 else row
            self.hits += int((found == wanted).sum())
            self.count += wanted.shape[0]
        return {"hits": self.hits / self.count} if compute_result else {}


def evaluate_once(library: Any, case: str) -> None:
    """Print the growth of the peak [MB] and the time of one evaluation [s]."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {"num_workers": 0} if library is raytrainer else {}
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        args = library.TrainingArguments(
            output_dir=directory,
            per_device_eval_batch_size=BATCH,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            batch_eval_metrics=case == "streaming",
            **options,
        )
        trainer = library.Trainer(
            model=Logits(),
            args=args,
            compute_metrics=Accuracy(),
            preprocess_logits_for_metrics=(lambda logits, labels: logits.argmax(-1))
            if case == "argmax"
            else None,
        )
        trainer.evaluate(make_data(2 * BATCH, ragged=case == "ragged"))
        data = make_data(NUM_ROWS, ragged=case == "ragged")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        trainer.evaluate(data)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"growth_mb": (after - before) * 1024 / 1e6, "seconds": seconds}))


def measure(name: str, case: str) -> dict[str, float]:
    """Evaluate in a separate process."""
    command = [sys.executable, __file__, "--only", name, case]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure all cases, or only the named one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs=2, metavar=("LIBRARY", "CASE"))
    options = parser.parse_args()
    libraries = {"raytrainer": raytrainer, "transformers": transformers}
    if options.only:
        evaluate_once(libraries[options.only[0]], options.only[1])
        return
    size = NUM_ROWS * ROW_BYTES / 1e6
    print(f"logits of {size:.0f} MB, numpy {np.__version__}")
    print(f"{'':10} {'raytrainer':>24} {'transformers':>24}")
    for case in CASES:
        found = {name: measure(name, case) for name in libraries}
        cells = [
            f"{one['growth_mb']:6.0f} MB {one['growth_mb'] / size:5.2f}x {one['seconds']:5.1f} s"
            for one in found.values()
        ]
        print(f"{case:10} {cells[0]:>24} {cells[1]:>24}")


if __name__ == "__main__":
    main()
