"""Evaluates, and trains with too little memory, as a rank of torchrun; writes each rank's findings as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import raytrainer
from raytrainer.evaluation import results
from tests.parity.twins import make_args, make_model, make_samples, rows


class Texts(raytrainer.Trainer):
    """Predicts a text for each sample in addition to the logits."""

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        return loss, (logits, [str(row[0].item()) for row in inputs["input_ids"]]), labels


def is_mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def evaluate(directory: Path, spill: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def metric(prediction: Any) -> dict[str, float]:
        logits, texts = prediction.predictions
        seen.update(is_mapped=is_mapped(logits), texts=texts, files=len(list(spill.iterdir())))
        return {"sum": float(logits.sum()), "rows": len(logits), "labels": float(prediction.label_ids.sum())}

    args = make_args(
        raytrainer, directory, num_ranks=2, per_device_eval_batch_size=2, eval_use_gather_object=True
    )
    # Seven samples on two ranks: the last batch is padded with duplicates.
    trainer = Texts(model=make_model(), args=args, eval_dataset=make_samples(7), compute_metrics=metric)
    metrics = trainer.evaluate()
    return {**seen, "metrics": {key: metrics[f"eval_{key}"] for key in ("loss", "sum", "rows", "labels")}}


def fit(directory: Path) -> dict[str, Any]:
    """Rank 1 alone runs out of memory above two samples, in its third step."""
    sizes: list[int] = []
    model = make_model(dropout=0.0)

    def look(module: Any, args: Any, kwargs: Any) -> None:
        sizes.append(len(kwargs["input_ids"]))
        if dist.get_rank() == 1 and sizes[-1] > 2 and len(sizes) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(look, with_kwargs=True)
    trainer = raytrainer.Trainer(
        model=model,
        args=make_args(raytrainer, directory, num_ranks=2, max_steps=5, auto_find_batch_size=True),
        train_dataset=make_samples(),
    )
    trainer.train()
    plain = raytrainer.Trainer(
        model=make_model(dropout=0.0),
        args=make_args(
            raytrainer,
            directory / "plain",
            num_ranks=2,
            max_steps=5,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
        ),
        train_dataset=make_samples(),
    )
    plain.train()
    same = all(
        torch.equal(value, plain.model.state_dict()[name])
        for name, value in trainer.model.state_dict().items()
    )
    return {"sizes": sizes, "rows": rows(trainer), "expected": rows(plain), "same_weights": same}


def main() -> None:
    """Run both, and write what the ranks found."""
    target = Path(sys.argv[1])
    torch.set_num_threads(1)
    spill = target.parent / "spill"
    spill.mkdir(exist_ok=True)
    tempfile.tempdir = str(spill)
    results.SPILL_BYTES = 100
    found = {"evaluation": evaluate(target.parent / "out", spill), "fitting": fit(target.parent / "fit")}
    every: list[Any] = [None] * 2
    dist.all_gather_object(every, found)
    if dist.get_rank() == 0:
        target.write_text(json.dumps(every))
    # If a rank exits while the other is still working, gloo aborts the other.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
