"""Loaders that keep their processes are used again for the data that they were made from, and for no other."""

from __future__ import annotations

from pathlib import Path

import raytrainer
from tests.parity.twins import make_samples, make_trainer


def test_a_loader_that_is_kept_is_for_its_own_dataset_collator_and_batch_size(tmp_path: Path) -> None:
    trainer = make_trainer(
        raytrainer,
        tmp_path,
        per_device_eval_batch_size=2,
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
    )
    first = trainer.get_eval_dataloader()
    assert first.persistent_workers
    assert trainer.get_eval_dataloader() is first
    assert len(trainer.get_eval_dataloader(make_samples(4))) == 2
    assert len(trainer.get_eval_dataloader()) == len(first) == 5
    trainer.eval_dataset = make_samples(6)
    assert len(trainer.get_eval_dataloader()) == 3
    trainer.args.per_device_eval_batch_size = 6
    assert len(trainer.get_eval_dataloader()) == 1
    last = trainer.get_eval_dataloader()
    trainer.data_collator = lambda rows: {"rows": rows}
    assert trainer.get_eval_dataloader() is not last


def test_loaders_of_named_datasets_are_all_kept(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)
    trainer.eval_dataset = {"few": make_samples(4), "many": make_samples(8)}
    loaders = {name: trainer.get_eval_dataloader(name) for name in trainer.eval_dataset}
    assert {name: len(loader.dataset) for name, loader in loaders.items()} == {"few": 4, "many": 8}
    assert all(trainer.get_eval_dataloader(name) is loader for name, loader in loaders.items())
