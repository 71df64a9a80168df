"""Hugging Face's example scripts, with their import swapped, in process and on two Ray workers.

``make clients`` runs them from the checkout of transformers that ``TRANSFORMERS_CHECKOUT`` names.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.clients.transformers_scripts import SCRIPTS, Sandbox

CHECKOUT = os.environ.get("TRANSFORMERS_CHECKOUT") or None

needs_checkout = pytest.mark.skipif(
    CHECKOUT is None, reason="TRANSFORMERS_CHECKOUT names no checkout of transformers"
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """The scripts, and what they read."""
    return Sandbox(Path(CHECKOUT or "").absolute(), tmp_path_factory.mktemp("scripts"))


@needs_checkout
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCRIPTS)
def test_in_process_a_script_ends_with_the_weights_of_transformers(sandbox, name):
    theirs = sandbox.run(name, kind="stock", batch=4)
    mine = sandbox.run(name, kind="swapped", batch=4, num_workers=0)
    assert mine.difference(theirs) == 0
    assert mine.numbers["train_loss"] == theirs.numbers["train_loss"]


@needs_checkout
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCRIPTS)
def test_on_two_workers_a_script_ends_with_the_weights_of_two_ranks(sandbox, name):
    # The two ranks are raytrainer's too. Those of transformers are no measure for every script: they double the loss of
    # models that take any keyword argument and divide by their own count, such as that of run_glue.
    launched = sandbox.run(name, kind="swapped", batch=2, ranks=2)
    mine = sandbox.run(name, kind="swapped", batch=2, num_workers=2)
    assert mine.difference(launched) == 0
    assert mine.numbers["train_loss"] == launched.numbers["train_loss"]
    assert mine.numbers.keys() == launched.numbers.keys()
