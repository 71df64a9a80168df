"""A mistyped name is answered with the most similar valid names."""

from __future__ import annotations

from raytrainer.suggestions import did_you_mean, nearest

KNOWN = ("num_workers", "num_train_epochs", "seed")


def test_the_nearest_name_comes_first() -> None:
    assert nearest("num_worker", KNOWN)[0] == "num_workers"


def test_the_question_is_a_sentence_to_append() -> None:
    assert did_you_mean("num_wokers", KNOWN) == " Did you mean 'num_workers'?"
    assert did_you_mean("seeds", ["seed", "seed_s"], count=2) == " Did you mean 'seed_s' or 'seed'?"


def test_a_word_unlike_any_name_gets_no_question() -> None:
    assert did_you_mean("zzzzzz", KNOWN) == ""
