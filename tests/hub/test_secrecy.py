"""The token appears in no log, file, text or upload."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from raytrainer import ConfigurationError, TrainingArguments
from raytrainer.hub.secrecy import HIDDEN, without_tokens
from tests.hub.server import TOKEN

WRONG = "hf_" + "Wrong9876543210" * 2


def holding(directory: Path, word: str) -> list[str]:
    """The files that contain a word."""
    found = [Path(folder) / name for folder, _, names in os.walk(directory) for name in names]
    return [str(path) for path in found if path.is_file() and word.encode() in path.read_bytes()]


def test_a_run_that_uploads_writes_its_token_nowhere(hub, make, tmp_path, capsys, caplog):
    caplog.set_level("DEBUG")
    trainer = make(hub_token=TOKEN, hub_strategy="checkpoint", report_to="tensorboard")
    trainer.train()
    trainer.push_to_hub()
    repo = hub.repo("my-model")
    assert len(repo.commits) > 1, "it uploads"
    assert holding(tmp_path, "learning_rate") != [], "the search looks into files"
    assert holding(tmp_path, TOKEN) == []
    streams = capsys.readouterr()
    assert TOKEN not in streams.out + streams.err + caplog.text
    assert not any(TOKEN.encode() in content for content in repo.branches["main"].values())


def test_a_run_whose_token_is_refused_writes_it_nowhere(hub, make, tmp_path, capsys, caplog):
    caplog.set_level("DEBUG")
    make(hub_token=WRONG).train()
    streams = capsys.readouterr()
    assert HIDDEN in streams.err, "the Hub repeated it"
    assert WRONG not in streams.out + streams.err + caplog.text
    assert holding(tmp_path, WRONG) == []


def test_the_process_that_uploads_takes_its_own_token(hub, make):
    trainer = make()
    assert trainer.args.hub_token is None
    trainer.train()
    assert hub.tokens == {TOKEN}
    assert len(hub.repo("my-model").commits) > 0


def test_the_token_of_the_arguments_wins_over_that_of_the_process(hub, make, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRONG)
    make(hub_token=TOKEN).train()
    assert hub.tokens == {TOKEN}


@dataclasses.dataclass
class Mine(TrainingArguments):
    """A user's subclass, for which the decorator generates another __repr__."""

    size: int = 1


@pytest.mark.parametrize("cls", [TrainingArguments, Mine])
@pytest.mark.parametrize(
    "text_of", [repr, str, lambda args: args.to_json_string(), lambda args: repr(args.to_dict())]
)
def test_arguments_do_not_show_their_token(cls, text_of):
    args = cls(hub_token=TOKEN)
    assert TOKEN not in text_of(args)
    assert args.hub_token == TOKEN


def test_two_tokens_that_differ_are_not_shown():
    with pytest.raises(ConfigurationError, match="are different tokens") as caught:
        TrainingArguments(push_to_hub_token=TOKEN, hub_token=WRONG)
    assert TOKEN not in str(caught.value)
    assert WRONG not in str(caught.value)


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f" {TOKEN}", 12])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token):
    with pytest.raises(ConfigurationError, match="hub_token") as caught:
        TrainingArguments(hub_token=token)
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no secret", "no secret"),
        ("my password is s3cret!", f"my password is {HIDDEN}"),
        (f"header 'Bearer {WRONG}'", f"header 'Bearer {HIDDEN}'"),
        (f"unknown {WRONG}", f"unknown {HIDDEN}"),
        ("hf_hub_download failed", "hf_hub_download failed"),
    ],
)
def test_tokens_are_taken_out_of_texts(text, shown):
    assert without_tokens(text, "s3cret!", None) == shown
