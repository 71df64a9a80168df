"""Large results go to a memory-mapped file, which is complete, padded, and removed afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import raytrainer
from raytrainer.errors import ConfigurationError
from raytrainer.evaluation import results
from raytrainer.evaluation.nested import Objects, wrap_objects
from raytrainer.evaluation.results import Results
from raytrainer.runtimes.in_process import LocalRuntime
from tests.parity.twins import make_args, make_model, make_samples


@pytest.fixture(autouse=True)
def spills_early(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Spill after 100 bytes, to a directory that the test can inspect."""
    directory = tmp_path_factory.mktemp("spill")
    monkeypatch.setattr(results, "SPILL_BYTES", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert list(directory.iterdir()) == []


def is_mapped(array: Any) -> bool:
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


def collect(batches: list[Any], *, concatenates: bool = True) -> Any:
    kept = Results(LocalRuntime(lambda event: None), concatenates=concatenates, is_shared=True)
    for batch in batches:
        kept.add(batch)
    found = kept.result()
    kept.close()
    return found


def padded(batches: list[torch.Tensor]) -> np.ndarray[Any, Any]:
    width = max(batch.shape[1] for batch in batches)
    whole = [
        torch.nn.functional.pad(b, (0, 0) * (b.dim() - 2) + (0, width - b.shape[1]), value=-100)
        for b in batches
    ]
    return torch.cat(whole).numpy()


@pytest.mark.parametrize("widths", [[3, 3, 3], [3, 7, 5, 7], [9, 1, 1, 2], [1, 2, 3, 4, 5, 6, 7, 8]], ids=str)
@pytest.mark.parametrize("rest", [(), (4,)], ids=["tokens", "logits"])
def test_a_file_gives_what_joining_in_memory_gives(widths: list[int], rest: tuple[int, ...]) -> None:
    batches = [torch.rand(2 + index % 2, width, *rest) for index, width in enumerate(widths * 5)]
    found = collect(batches)
    assert is_mapped(found)
    assert np.array_equal(found, padded(batches))


def test_what_is_small_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SPILL_BYTES", 10**9)
    batches = [torch.rand(2, 1 + index % 4) for index in range(13)]
    found = collect(batches)
    assert not is_mapped(found)
    assert np.array_equal(found, padded(batches))


def test_nested_batches_keep_their_structure() -> None:
    batches = [
        (torch.rand(2, 30), {"a": torch.rand(2), "none": None}, [torch.ones(2, 20 + i)]) for i in range(3)
    ]
    first, mapping, listed = collect(batches)
    assert np.array_equal(first, torch.cat([b[0] for b in batches]).numpy())
    assert np.array_equal(mapping["a"], torch.cat([b[1]["a"] for b in batches]).numpy())
    assert mapping["none"] is None
    assert listed[0].shape == (6, 22)


def test_batches_stay_apart_when_asked_to() -> None:
    batches = [(torch.rand(2, 30 + index), torch.rand(2)) for index in range(3)]
    found = collect(batches, concatenates=False)
    assert len(found) == 3
    for (mine, short), (theirs, other) in zip(found, batches, strict=True):
        assert np.array_equal(mine, theirs.numpy())
        assert np.array_equal(short, other.numpy())


def test_bfloat16_becomes_float32() -> None:
    batch = torch.rand(4, 40).bfloat16()
    assert np.array_equal(collect([batch, batch]), torch.cat([batch, batch]).float().numpy())


def test_a_metric_may_write_to_what_it_is_given() -> None:
    found = collect([torch.ones(4, 40), torch.ones(4, 40)])
    assert is_mapped(found)
    found[found == 1] = 0
    assert found.sum() == 0


def test_a_list_of_one_object_a_sample_is_one_leaf() -> None:
    wrapped = wrap_objects({"text": ["a", "b"], "pair": [torch.ones(2), torch.ones(2)], "note": "x"}, 2)
    assert wrapped["text"] == Objects(["a", "b"])
    assert wrapped["note"] == Objects(["x"])
    assert all(torch.is_tensor(one) for one in wrapped["pair"])


def make_evaluator(directory: Path, trainer_class: Any = raytrainer.Trainer, **options: Any) -> Any:
    parts = {n: options.pop(n) for n in ("compute_metrics", "preprocess_logits_for_metrics") if n in options}
    args = make_args(raytrainer, directory, per_device_eval_batch_size=4, **options)
    return trainer_class(model=make_model(), args=args, eval_dataset=make_samples(10), **parts)


def test_metrics_are_handed_the_mapped_file(tmp_path: Path) -> None:
    seen = []

    def metric(prediction: Any) -> dict[str, float]:
        seen.append(is_mapped(prediction.predictions))
        assert prediction.inputs.shape == (10, 16)
        assert prediction.losses.shape == (10,)
        return {"rows": len(prediction.predictions)}

    trainer = make_evaluator(tmp_path, compute_metrics=metric, include_for_metrics=["inputs", "loss"])
    assert trainer.evaluate()["eval_rows"] == 10
    assert seen == [True]


def test_files_are_gone_when_a_metric_fails(tmp_path: Path, spills_early: Path) -> None:
    def metric(prediction: Any) -> dict[str, float]:
        assert is_mapped(prediction.predictions)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        make_evaluator(tmp_path, compute_metrics=metric).evaluate()
    assert list(spills_early.iterdir()) == []


@pytest.mark.parametrize("accumulation", [None, 1, 2])
def test_accumulation_on_the_device_changes_nothing(accumulation: int | None, tmp_path: Path) -> None:
    expected = make_evaluator(tmp_path).predict(make_samples(10))
    output = make_evaluator(tmp_path, eval_accumulation_steps=accumulation).predict(make_samples(10))
    assert np.array_equal(output.predictions, expected.predictions)
    assert np.array_equal(output.label_ids, expected.label_ids)


def test_streaming_metrics_see_batch_after_batch(tmp_path: Path) -> None:
    calls = []

    def metric(prediction: Any, compute_result: bool) -> dict[str, float]:
        calls.append((len(prediction.predictions), compute_result))
        return {"rows": sum(rows for rows, _ in calls)} if compute_result else {}

    metrics = make_evaluator(tmp_path, compute_metrics=metric, batch_eval_metrics=True).evaluate()
    assert calls == [(4, False), (4, False), (2, True)]
    assert metrics["eval_rows"] == 10


class Texts(raytrainer.Trainer):
    """Predicts a text for each sample."""

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss, _, labels = super().prediction_step(model, inputs, *args, **kwargs)
        return loss, [f"text {row[0].item()}" for row in inputs["input_ids"]], labels


def test_objects_are_gathered_when_asked_for(tmp_path: Path) -> None:
    output = make_evaluator(tmp_path, Texts, eval_use_gather_object=True).predict(make_samples(10))
    assert output.predictions == [f"text {row['input_ids'][0].item()}" for row in make_samples(10)]


def test_objects_are_refused_when_not_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"contain a str.*eval_use_gather_object=True"):
        make_evaluator(tmp_path, Texts).predict(make_samples(10))


def test_the_loss_leaves_out_bad_batches_only_when_asked_to(tmp_path: Path) -> None:
    class Bad(raytrainer.Trainer):
        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss, *rest = super().prediction_step(model, inputs, *args, **kwargs)
            assert loss is not None
            return (loss * float("nan") if len(inputs["input_ids"]) == 2 else loss), *rest

    assert np.isnan(make_evaluator(tmp_path, Bad).evaluate()["eval_loss"])
    found = make_evaluator(tmp_path, Bad, logging_nan_inf_filter=True).evaluate()["eval_loss"]
    clean = make_evaluator(tmp_path).evaluate(make_samples(10)[:8])["eval_loss"]
    assert found == pytest.approx(clean, abs=1e-6)
