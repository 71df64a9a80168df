"""Which names of transformers stand for raytrainer's classes, from when to when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("patching")
    subprocess.run(
        [sys.executable, "-m", "tests.libraries.patching", str(directory)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=55,
    )
    return json.loads((directory / "found.json").read_text(encoding="utf-8"))


def test_names_of_transformers_stand_for_our_classes(found):
    assert found["names"] == dict.fromkeys(found["names"], True)
    assert len(found["names"]) == 5
    assert found["in_its_module"]


def test_a_name_that_was_imported_before_is_exchanged(found):
    assert found["imported_before"]


def test_a_library_that_is_imported_afterwards_trains_with_our_trainer(found):
    assert found["base"]


def test_plain_arguments_that_were_made_before_are_taken(found):
    assert found["plain_arguments"] == ["raytrainer.arguments.training_arguments", 0.25]


def test_our_arguments_still_derive_from_those_of_transformers(found):
    assert found["ours_kept"] == "transformers.training_args"


def test_a_second_call_changes_nothing(found):
    assert found["again"]


def test_the_end_of_a_block_undoes_it_and_derived_classes_stay(found):
    assert not found["in_effect_after_the_block"]
    assert found["names_after_the_block"] == ["transformers.trainer", "transformers.trainer"]
    assert found["class_after_the_block"]


def test_a_library_that_came_first_is_named_in_the_error_and_nothing_is_patched(found):
    assert "too late for late_library: late_library.LibraryTrainer already derived" in found["error"]
    assert "before late_library is imported" in found["error"]
    assert found["names_after_the_error"] == "transformers.trainer"


def test_a_class_that_nobody_holds_any_more_is_no_obstacle(found):
    assert "names" in found  # the patch began after the class had become garbage


def test_a_seed_that_differs_by_rank_is_set_on_a_driver_and_repeated_on_workers(found):
    assert found["seed"] == [11, [["raytrainer.libraries.seeds:seed_by_rank", [11]]]]
    assert found["transformers_own_set_seed"] == "transformers.trainer_utils"
