"""The model card contains what is known, and nothing false."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn

import raytrainer
from raytrainer.hub.card import base_model_of
from tests.parity.twins import make_model


@pytest.fixture
def card(make, tmp_path):
    def write(trainer, **facts):
        trainer.create_model_card(**facts)
        return ModelCard.load(tmp_path / "my-model" / "README.md")

    return write


def test_card_has_hyperparameters_results_and_versions(make, card):
    trainer = make(push_to_hub=False, eval_strategy="steps", eval_steps=2, save_strategy="no")
    trainer.train()
    text = card(trainer).text
    assert "- learning_rate: 0.01\n" in text
    assert "- optimizer: Use adamw_torch_fused with" in text
    last = trainer.state.log_history[-2]
    assert f"- Loss: {last['eval_loss']:.4f}\n" in text
    assert "| Training Loss | Epoch  | Step | Validation Loss |" in text
    assert f"| 4    | {last['eval_loss']:.4f}" in text
    assert f"- Pytorch {torch.__version__}" in text
    assert f"- Raytrainer {raytrainer.__version__}" in text


def test_card_takes_a_users_words(make, card):
    made = card(
        make(),
        language="en",
        license="mit",
        tags=["toy"],
        model_name="Tiny",
        finetuned_from="me/base",
        dataset_tags="glue",
        dataset="GLUE",
    )
    data = made.data.to_dict()
    assert data["language"] == ["en"]
    assert data["license"] == "mit"
    assert data["base_model"] == "me/base"
    assert data["datasets"] == ["glue"]
    assert set(data["tags"]) == {"toy", "generated_from_trainer"}
    assert "# Tiny" in made.text
    assert "fine-tuned version of [me/base]" in made.text


def test_tags_of_a_card_that_is_there_are_kept(make, card):
    trainer = make()
    card(trainer, tags="first")
    assert set(card(trainer, tags="second").data.tags) == {"first", "second", "generated_from_trainer"}


def test_card_says_how_many_workers_trained(make, card):
    trainer = make()
    trainer._process.trained_world_size = 3
    text = card(trainer).text
    assert "- num_devices: 3\n" in text
    assert "- total_train_batch_size: 12\n" in text


def test_a_model_without_a_config_has_a_card(make, card):
    trainer = make(push_to_hub=False)
    trainer.model = nn.Linear(2, 2)
    assert "This model was trained from scratch on an unknown dataset." in card(trainer).text


def test_data_without_a_name_are_not_given_one(make, card):
    import datasets

    trainer = make()
    trainer.train_dataset = trainer.eval_dataset = datasets.Dataset.from_dict({"labels": [1]})
    assert "None" not in card(trainer).text


@pytest.mark.parametrize(
    ("name", "base"), [("me/base", "me/base"), ("", None), ("/data/models/base", None), (".", None)]
)
def test_a_base_model_is_one_of_the_hub(name, base):
    model = make_model()
    model.config._name_or_path = name
    assert base_model_of(model) == base


def test_the_license_is_that_of_the_base_model(hub, make, card):
    from tests.hub.server import Repo

    hub.repos["me/base"] = Repo(visibility=None, tags=["license:apache-2.0"])
    trainer = make()
    trainer.model.config._name_or_path = "me/base"
    assert card(trainer).data.license == "apache-2.0"
