"""Sharded optimizer state is read back by parameter names."""

from __future__ import annotations

import torch
from torch import nn

from raytrainer.checkpoint.optimizer_files import load_saved_optimizer, save_optimizer_shards
from raytrainer.checkpoint.optimizer_state import optimizer_state


def make(*, steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    groups = [{"params": [], "lr": 0.1}, {"params": list(model.parameters())}, {"params": [], "lr": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=0.5)
    for _ in range(steps):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


def test_groups_without_parameters_stay_where_they_were(tmp_path):
    model, optimizer = make(steps=2)
    save_optimizer_shards(tmp_path, optimizer_state(model, optimizer))
    again, fresh = make(steps=0)
    load_saved_optimizer(
        tmp_path,
        state=optimizer_state(again, fresh),
        full=fresh,
        name="AdamW",
        device=torch.device("cpu"),
    )
    assert [group["lr"] for group in fresh.param_groups] == [0.1, 0.5, 0.2]
    saved, loaded = (one.state_dict()["state"][0] for one in (optimizer, fresh))
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)
