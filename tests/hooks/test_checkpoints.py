"""Hooks about the parts of a checkpoint: each override is called, and takes effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from tests.parity.twins import make_args, make_model, make_samples, rows

SAVES = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}


def make(cls: type, directory: Path, **options: Any) -> Any:
    return cls(
        model=make_model(dropout=0.0),
        args=make_args(raytrainer, directory, **options),
        train_dataset=make_samples(16),
    )


class Hooked(raytrainer.Trainer):
    """Notes each hook that is called, with the directory it is given."""

    @property
    def called(self) -> list[tuple[str, str]]:
        return vars(self).setdefault("_called", [])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self.called.append(("save optimizer", output_dir))
        super()._save_optimizer_and_scheduler(output_dir)
        (Path(output_dir) / "controller.json").write_text(json.dumps({"step": self.state.global_step}))

    def _save_scaler(self, output_dir: str) -> None:
        self.called.append(("save scaler", output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.called.append(("load weights", resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self.called.append(("load optimizer", str(checkpoint)))
        self.controller = json.loads((Path(str(checkpoint)) / "controller.json").read_text())

    def _load_scaler(self, checkpoint: str | None) -> None:
        self.called.append(("load scaler", str(checkpoint)))

    def _save_rng_state(self, output_dir: str) -> None:
        self.called.append(("save random state", output_dir))
        super()._save_rng_state(output_dir)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self.called.append(("load random state", str(checkpoint)))
        super()._load_rng_state(checkpoint)

    def _load_callback_state(self) -> None:
        self.called.append(("load callbacks", str(self.state.global_step)))


def test_each_part_is_written_and_read_by_its_hook(tmp_path: Path) -> None:
    whole = make(Hooked, tmp_path, **SAVES)
    whole.train()
    assert [name for name, _ in whole.called] == ["save optimizer", "save scaler", "save random state"] * 2
    assert "controller.json" in (tmp_path / "checkpoint-1" / "manifest.json").read_text()

    resumed = make(Hooked, tmp_path, **SAVES, restore_callback_states_from_checkpoint=True)
    checkpoint = str(tmp_path / "checkpoint-1")
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.called[:5] == [
        ("load weights", checkpoint),
        ("load optimizer", checkpoint),
        ("load scaler", checkpoint),
        ("load callbacks", "1"),
        ("load random state", checkpoint),
    ]
    assert resumed.controller == {"step": 1}
    assert rows(resumed)[-1][1] == rows(whole)[-1][1]


def test_an_override_may_replace_how_random_states_are_kept(tmp_path: Path) -> None:
    class OneNumber(raytrainer.Trainer):
        """Keeps a seed, and starts from it again."""

        def _save_rng_state(self, output_dir: str) -> None:
            torch.manual_seed(self.state.global_step)
            (Path(output_dir) / "seed.txt").write_text(str(self.state.global_step))

        def _load_rng_state(self, checkpoint: str | None) -> None:
            if checkpoint is not None:
                torch.manual_seed(int((Path(checkpoint) / "seed.txt").read_text()))

    def run(directory: Path, **options: Any) -> Any:
        trainer = OneNumber(  # with dropout, so that the state counts
            model=make_model(), args=make_args(raytrainer, directory, **SAVES), train_dataset=make_samples(16)
        )
        trainer.train(**options)
        return trainer

    whole = run(tmp_path)
    assert not list(tmp_path.glob("checkpoint-*/rng_state*"))
    resumed = run(tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert rows(resumed)[-1] == rows(whole)[-1]


def test_a_hook_of_weights_alone_reads_what_it_wrote(tmp_path: Path) -> None:
    class HeadOnly(raytrainer.Trainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            torch.save(self.model.lm_head.state_dict(), Path(str(output_dir)) / "head.bin")

        def _load_from_checkpoint(self, resume_from_checkpoint: str) -> None:
            state = torch.load(Path(resume_from_checkpoint) / "head.bin")
            self.model.lm_head.load_state_dict(state)
            self.loaded = state["weight"].clone()

    first = make(HeadOnly, tmp_path, **SAVES)
    first.train()
    saved = torch.load(tmp_path / "checkpoint-2" / "head.bin")["weight"]
    assert sorted(path.name for path in (tmp_path / "checkpoint-2").glob("*.safetensors")) == []
    again = make(HeadOnly, tmp_path, **{**SAVES, "max_steps": 3})
    again.train(resume_from_checkpoint=True)
    assert torch.equal(again.loaded, saved)
    assert again.state.global_step == 3


def test_an_adapter_is_saved_where_get_output_dir_says(tmp_path: Path) -> None:
    class AdapterOnly(raytrainer.Trainer):
        """As scripts for vision-language models save the projector alone."""

        def _save_checkpoint(self, model: Any, trial: Any, metrics: Any = None) -> None:
            directory = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            directory.mkdir(parents=True)
            torch.save(self.model.lm_head.state_dict(), directory / "projector.bin")

    make(AdapterOnly, tmp_path, **SAVES).train()
    assert (tmp_path / "checkpoint-2" / "projector.bin").is_file()


def test_checkpoints_are_saved_found_and_kept_where_an_override_says(tmp_path: Path) -> None:
    class Elsewhere(raytrainer.Trainer):
        def _get_output_dir(self, trial: Any) -> str:
            return str(Path(super()._get_output_dir(trial)) / "fold-3")

    make(Elsewhere, tmp_path, **SAVES, save_total_limit=1).train()
    assert [path.name for path in (tmp_path / "fold-3").glob("checkpoint-*")] == ["checkpoint-2"]
    assert list(tmp_path.glob("checkpoint-*")) == []
    resumed = make(Elsewhere, tmp_path, **{**SAVES, "max_steps": 3})
    resumed.train(resume_from_checkpoint=True)
    assert [row[0] for row in rows(resumed)] == [1, 2, 3]


def test_the_names_that_code_looks_for_exist(tmp_path: Path) -> None:
    trainer = make(raytrainer.Trainer, tmp_path)
    assert trainer.hp_search_backend is None
    assert trainer.push_in_progress is None
    assert trainer.is_model_parallel is False
    assert trainer.place_model_on_device is True
    assert trainer._get_output_dir(None) == str(tmp_path)


@pytest.mark.parametrize("places", [True, False])
def test_a_model_is_moved_by_its_hook_unless_it_keeps_its_place(tmp_path: Path, places: bool) -> None:
    class Mine(raytrainer.Trainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.place_model_on_device = places
            self.moves: list[str] = []

        def _move_model_to_device(self, model: Any, device: Any) -> None:
            self.moves.append(str(device))
            super()._move_model_to_device(model, device)

    trainer = make(Mine, tmp_path, max_steps=1)
    trainer.train()
    assert trainer.moves == (["cpu"] if places else [])
