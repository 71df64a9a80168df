"""The generation arguments are complete, honored or refused on the driver, and can be sent to workers."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import transformers
from transformers import GenerationConfig

from raytrainer import ConfigurationError, HfArgumentParser, Seq2SeqTrainingArguments, TrainingArguments
from raytrainer.arguments.convert import as_training_arguments
from raytrainer.seq2seq.arguments import as_seq2seq_training_arguments
from raytrainer.seq2seq.generation_config import GenerationSettings, check_call, load_generation_config


def test_every_field_of_transformers_is_there():
    theirs = {field.name for field in dataclasses.fields(transformers.Seq2SeqTrainingArguments)}
    ours = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    assert theirs - ours == set()
    assert ours - theirs == {f.name for f in dataclasses.fields(TrainingArguments)} - theirs


def test_a_command_line_says_how_to_generate():
    (args,) = HfArgumentParser(Seq2SeqTrainingArguments).parse_args_into_dataclasses(
        [
            *(
                "--output_dir",
                "out",
                "--predict_with_generate",
                "--generation_max_length",
                "12",
                "--num_workers",
                "2",
            ),
            *("--generation_num_beams", "3", "--sortish_sampler", "--generation_config", '{"num_beams": 2}'),
        ],
        look_for_args_file=False,
    )
    assert (args.predict_with_generate, args.generation_max_length, args.generation_num_beams) == (
        True,
        12,
        3,
    )
    assert (args.sortish_sampler, args.num_workers, args.generation_config) == (True, 2, {"num_beams": 2})


def test_arguments_are_sent_to_workers():
    args = Seq2SeqTrainingArguments(
        "out", predict_with_generate=True, generation_config=GenerationConfig(num_beams=3)
    )
    arrived = pickle.loads(pickle.dumps(args))
    assert type(arrived) is Seq2SeqTrainingArguments
    assert arrived.to_dict() == args.to_dict()
    assert arrived.to_dict()["generation_config"]["num_beams"] == 3


def test_arguments_of_transformers_are_adopted_with_all_they_say():
    theirs = transformers.Seq2SeqTrainingArguments(
        "out", predict_with_generate=True, generation_num_beams=3, learning_rate=1e-3, use_cpu=True
    )
    for args in (as_training_arguments(theirs), as_seq2seq_training_arguments(theirs)):
        assert type(args) is Seq2SeqTrainingArguments
        assert (args.predict_with_generate, args.generation_num_beams, args.learning_rate) == (True, 3, 1e-3)


def test_plain_arguments_are_refused_by_a_trainer_that_generates():
    with pytest.raises(ConfigurationError, match=r"Pass raytrainer\.Seq2SeqTrainingArguments"):
        as_seq2seq_training_arguments(TrainingArguments("out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation_max_length": 0}, "generation_max_length=0 is not a whole number of 1 or more"),
        ({"generation_num_beams": -1}, "generation_num_beams=-1 is not a whole number of 1 or more"),
        ({"generation_config": 5}, "generation_config= is a int"),
        ({"generation_config": "{num_beams: 2}"}, "looks like JSON but cannot be parsed"),
        ({"sortish_sampler": True, "train_sampling_strategy": "sequential"}, "Keep one of them"),
    ],
    ids=str,
)
def test_what_can_never_be_right_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Seq2SeqTrainingArguments("out", **options)


def test_a_generation_config_is_an_object_a_dict_a_directory_or_a_file(tmp_path):
    config = GenerationConfig(num_beams=3, max_length=17)
    config.save_pretrained(tmp_path)
    for given in (
        config,
        {"num_beams": 3, "max_length": 17},
        tmp_path,
        str(tmp_path),
        str(tmp_path / "generation_config.json"),
    ):
        loaded = load_generation_config(given)
        assert (loaded.num_beams, loaded.max_length) == (3, 17)
        assert loaded is not config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nowhere/at/all", "is neither a file nor a directory here"),
        ("nowhere/generation.json", "is neither a file nor a directory here"),
        ("nobody/no-model", "could not be read"),
        ({"num_beam": 3}, "num_beam.*Did you mean 'num_beams'"),
        (
            {"num_beams": 1, "early_stopping": True, "do_sample": False, "temperature": 0.5},
            "generation_config is invalid",
        ),
    ],
    ids=str,
)
def test_a_generation_config_that_is_not_there_or_not_right_is_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        load_generation_config(given)


def test_a_misspelt_keyword_of_generate_is_refused_with_the_nearest_name():
    config = transformers.T5Config(vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config)
    check_call(model, ["num_beams", "max_new_tokens", "logits_processor", "decoder_input_ids"])
    with pytest.raises(ConfigurationError, match=r"num_beam'. Did you mean 'num_beams'"):
        check_call(model, ["num_beam"])


@pytest.mark.parametrize(
    ("config", "keywords", "longest"),
    [
        ({}, {}, 20),
        ({"max_length": 9}, {}, 9),
        ({"max_length": 9}, {"max_length": 7}, 7),
        ({"max_length": 9}, {"max_new_tokens": 7}, 10),
        ({"max_new_tokens": 4}, {"max_length": 30}, 7),
        ({"max_new_tokens": 4}, {"generation_config": GenerationConfig(max_new_tokens=5)}, 8),
    ],
    ids=str,
)
def test_the_longest_sequence_is_what_generate_would_allow(config, keywords, longest):
    assert GenerationSettings(GenerationConfig(**config), keywords).longest(prompt_length=3) == longest
