"""No secret is written to the files of a run, and ordinary words are left alone."""

from __future__ import annotations

import pytest

from raytrainer.telemetry import redaction
from raytrainer.telemetry.redaction import HIDDEN, is_secret_name, redacted, redacted_text


@pytest.mark.parametrize(
    "text",
    [
        "the Hub said no to hf_abcdefghijklmnopqrstuvwx",
        "Authorization: Bearer abc.def",
        "s3://key:secret@host/bucket",
        "s3://bucket/x?secret_key=wow&region=eu",
        "AKIAABCDEFGHIJKLMNOP",
        "ghp_abcdefghijklmnopqrstuvwxyz0123",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str):
    found = redacted_text(text)
    assert HIDDEN in found
    assert not any(word in found for word in ("abcdef", "wow", "secret@", "ABCDEF"))


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_occurs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_API_KEY", "correct-horse")
    monkeypatch.setenv("DB_PASSWORD", "short")
    redaction._of_environment.cache_clear()
    try:
        assert redacted({"a": ["it is correct-horse", "short"]}) == {"a": [f"it is {HIDDEN}", "short"]}
    finally:
        redaction._of_environment.cache_clear()


def test_a_field_that_is_called_a_secret_is_hidden():
    assert redacted({"hub_token": "x", "password": "y", "hub_token_": None}) == {
        "hub_token": HIDDEN,
        "password": HIDDEN,
        "hub_token_": None,
    }


@pytest.mark.parametrize(
    "name",
    ["num_input_tokens_seen", "tokenizer_name", "pad_token", "eos_token", "AWS_ACCESS_KEY_ID", "monkey"],
)
def test_ordinary_names_are_not_secret(name: str):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "hub_token", "SECRET"]
)
def test_names_of_secrets_are_known(name: str):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "text", ["loss 0.5 at step 3", "file:///a/b:c", "https://host/path", "worker 2 died"]
)
def test_ordinary_texts_stay(text: str):
    assert redacted_text(text) == text
