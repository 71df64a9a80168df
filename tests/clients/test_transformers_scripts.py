"""Hugging Face's example scripts, with their import swapped, in process and on two Ray workers.

``make clients`` runs them from the checkout of transformers that ``TRANSFORMERS_CHECKOUT`` names.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.clients.tiny import Result
from tests.clients.transformers_scripts import SCRIPTS, Sandbox

CHECKOUT = os.environ.get("TRANSFORMERS_CHECKOUT") or None

needs_checkout = pytest.mark.skipif(
    CHECKOUT is None, reason="TRANSFORMERS_CHECKOUT names no checkout of transformers"
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """The scripts, and what they read."""
    return Sandbox(Path(CHECKOUT or "").absolute(), tmp_path_factory.mktemp("scripts"))


@pytest.fixture(scope="module", params=SCRIPTS)
def stock(sandbox: Sandbox, request: pytest.FixtureRequest) -> tuple[str, Result]:
    """A script's name, and what it saves with transformers' own Trainer."""
    return request.param, sandbox.run(request.param, kind="stock", batch=4)


@needs_checkout
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_in_process_a_script_ends_with_the_weights_of_transformers(sandbox, stock):
    name, theirs = stock
    mine = sandbox.run(name, kind="swapped", batch=4, num_workers=0)
    assert mine.difference(theirs) == 0
    assert mine.numbers["train_loss"] == theirs.numbers["train_loss"]


@needs_checkout
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_on_two_workers_a_script_ends_with_the_weights_of_transformers(sandbox, stock):
    name, theirs = stock
    mine = sandbox.run(name, kind="swapped", batch=2, num_workers=2)
    assert mine.difference(theirs) < 1e-5
    assert mine.numbers["train_loss"] == pytest.approx(theirs.numbers["train_loss"], rel=1e-5)
    assert mine.numbers.keys() >= theirs.numbers.keys() - {"total_flos"}
