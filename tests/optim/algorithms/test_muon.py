"""Muon: which matrices it updates, and equality with torch's two optimizers used side by side."""

from __future__ import annotations

from pathlib import Path

import torch

import raytrainer
from raytrainer.optim.target_modules import HIDDEN_LINEAR, target_parameters
from tests.parity.twins import make_model, make_trainer


def test_hidden_matrices_are_the_linear_layers_but_for_the_head() -> None:
    model = make_model()
    linear = set(target_parameters(model, "all-linear"))
    hidden = set(target_parameters(model, HIDDEN_LINEAR))
    assert hidden == {name for name in linear if "lm_head" not in name}
    assert "model.layers.0.mlp.up_proj.weight" in hidden


def test_a_step_is_that_of_torchs_muon_and_adamw(tmp_path: Path) -> None:
    trainer = make_trainer(
        raytrainer, tmp_path, model=make_model(), optim="muon", optim_args="momentum=0.9, adam_lr=0.002",
        learning_rate=0.01, weight_decay=0.1,
    )  # fmt: skip
    mine, other = trainer.model, make_model()
    other.load_state_dict(mine.state_dict())
    optimizer = trainer.create_optimizer()
    assert optimizer.param_groups[0]["lr"] == 0.01, "the logged rate is Muon's"
    hidden = set(target_parameters(other, HIDDEN_LINEAR))
    decayed = set(trainer.get_decay_parameter_names(other))
    named = dict(other.named_parameters())
    muon = torch.optim.Muon(
        [named[name] for name in hidden],
        lr=0.01,
        weight_decay=0.1,
        momentum=0.9,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = named.keys() - hidden
    adamw = torch.optim.AdamW(
        [
            {"params": [named[name] for name in rest & decayed], "weight_decay": 0.1},
            {"params": [named[name] for name in rest - decayed], "weight_decay": 0.0},
        ],
        lr=0.002,
    )
    for _ in range(3):
        for name, parameter in mine.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            named[name].grad = parameter.grad.clone()
        optimizer.step()
        muon.step()
        adamw.step()
    for name, parameter in mine.named_parameters():
        assert torch.equal(parameter, named[name]), name
