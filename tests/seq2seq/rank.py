"""Trains and predicts with generation under a launcher, one backend after the other.

Usage: rank.py TARGET JSON, where JSON holds options by name of the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import raytrainer
from tests.seq2seq.reversal import LIVELY, Pairs, make_model, make_trainer


def main() -> None:
    """Write what rank 0 predicted, and how the model was wrapped."""
    target, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name, options in runs.items():
        seen: list[int] = []

        def count_rows(prediction: Any, seen: list[int] = seen) -> dict[str, float]:
            seen.append(len(prediction.predictions))
            return {"right": float(np.mean(prediction.predictions[:, 1:3] == prediction.label_ids[:, :2]))}

        trainer = make_trainer(
            raytrainer,
            target.parent / name,
            num_ranks=2,
            model=make_model(dropout=0.0),  # ranks drop different things
            per_device_train_batch_size=2,
            compute_metrics=count_rows,
            **options,
        )
        trainer.train()
        trainer.save_model(str(target.parent / name / "model"))
        evaluated = trainer.evaluate(num_beams=2, max_new_tokens=3)
        # Ranks get prompts of their own, so they end at different times.
        output = trainer.predict(Pairs(11), **LIVELY)
        results[name] = {
            "backend": trainer._backend.name,
            "predictions": output.predictions.tolist(),
            "labels": output.label_ids.tolist(),
            "loss": output.metrics["test_loss"],
            "evaluated": evaluated["eval_loss"],
            "rows": seen,
        }
    if trainer.is_world_process_zero():
        target.write_text(json.dumps(results))
    # If a rank exits while the other is still working, gloo aborts the other.
    dist.barrier()
    trainer.end()


if __name__ == "__main__":
    main()
