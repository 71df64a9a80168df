"""Optimizer and schedule of a checkpoint, as a backend with full parameters saves and loads them."""

from __future__ import annotations

import logging

import torch

from raytrainer.checkpoint.optimizer_files import load_saved_optimizer, save_full_optimizer
from raytrainer.checkpoint.optimizer_state import optimizer_state
from raytrainer.checkpoint.state_files import (
    load_optimizer_and_schedule,
    load_scaler,
    save_scaler,
    save_schedule,
)


def save_optimizer_files(directory, *, optimizer, scheduler, scaler=None):
    written = [*save_full_optimizer(directory, optimizer), save_schedule(directory, scheduler)]
    return written if scaler is None else [*written, save_scaler(directory, scaler)]


def load_optimizer_files(
    directory,
    *,
    model,
    optimizer,
    scheduler,
    scaler=None,
    device=torch.device("cpu"),  # noqa: B008
):
    def load_optimizer(path):
        load_saved_optimizer(
            path,
            state=optimizer_state(model, optimizer),
            full=optimizer,
            name=type(optimizer).__name__,
            device=device,
        )

    found = load_optimizer_and_schedule(
        directory, load_optimizer=load_optimizer, scheduler=scheduler, report=logging.warning
    )
    if scaler is not None:
        load_scaler(directory, scaler, report=logging.warning)
    return found
