"""Which values the Hub's arguments accept."""

from __future__ import annotations

import pytest

from raytrainer import ConfigurationError, TrainingArguments
from raytrainer.arguments.hub import repository_name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hub_model_id": "a/b/c"}, "hub_model_id='a/b/c' is not a valid name of a repository"),
        ({"hub_model_id": "my model"}, "hub_model_id='my model' is not a valid name of a repository"),
        (
            {"hub_private_repo": "maybe"},
            "hub_private_repo='maybe' is text, but True or False, or None was expected",
        ),
        ({"hub_revision": " "}, "hub_revision=' ' is not the name of a branch"),
        ({"hub_revision": "0123456789" * 4}, "is a commit, but an upload creates a new one"),
        (
            {"hub_strategy": "checkpoints"},
            "hub_strategy='checkpoints' is not one of .*Did you mean 'checkpoint'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_right_is_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        TrainingArguments(push_to_hub=True, **options)


def test_an_output_directory_that_cannot_name_the_repository_is_refused(tmp_path):
    directory = str(tmp_path / "my run")
    with pytest.raises(ConfigurationError, match=r"names the repository.* Set hub_model_id"):
        TrainingArguments(output_dir=directory, push_to_hub=True)
    TrainingArguments(output_dir=directory, push_to_hub=True, hub_model_id="my-run")
    TrainingArguments(output_dir=directory)


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_every_strategy_of_transformers_is_accepted(strategy):
    assert TrainingArguments(hub_strategy=strategy).hub_strategy.value == strategy


def test_the_repository_is_named_by_the_output_directory_unless_the_arguments_name_it(tmp_path):
    directory = str(tmp_path / "sentiment")
    assert repository_name(TrainingArguments(output_dir=directory)) == "sentiment"
    assert repository_name(TrainingArguments(output_dir=directory, hub_model_id="me/other")) == "me/other"


def test_the_setter_of_transformers_is_honoured():
    args = TrainingArguments().set_push_to_hub("me/model", strategy="checkpoint", private_repo=True)
    args.check()
    assert (args.push_to_hub, args.hub_strategy.value, args.hub_private_repo) == (True, "checkpoint", True)
