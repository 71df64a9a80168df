"""How rows of each format become tokens and targets, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import raytrainer
from raytrainer import ConfigurationError, SFTConfig, SFTTrainer, TrainingArguments
from tests.sft.words import (
    TEMPLATE,
    answers,
    chats,
    make_args,
    make_model,
    make_tokenizer,
    make_trainer,
    samples,
    texts,
)

END = make_tokenizer().eos_token_id


def ids_of(text: str) -> list[int]:
    return make_tokenizer()(text)["input_ids"]


def targets(labels: list[int]) -> list[int]:
    return [label for label in labels if label != -100]


def test_a_text_is_its_tokens_and_the_end_and_all_are_targets(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    expected = [[*ids_of(text), END] for text in texts()["text"]]
    assert samples(trainer) == [(ids, ids) for ids in expected]


def test_an_end_that_is_there_is_not_doubled(tmp_path: Path):
    trainer = make_trainer(tmp_path, [{"text": "a cat <end>"}])
    assert samples(trainer)[0][0] == [*ids_of("a cat"), END]


def test_targets_behind_a_prompt_are_the_completion(tmp_path: Path):
    trainer = make_trainer(tmp_path, answers())
    for (ids, labels), row in zip(samples(trainer), answers(), strict=True):
        assert ids == [*ids_of(row["prompt"] + row["completion"]), END]
        assert targets(labels) == [*ids_of(row["completion"]), END]


def test_targets_of_conversations_may_be_what_the_assistant_says(tmp_path: Path):
    trainer = make_trainer(tmp_path, chats(), assistant_only_loss=True)
    for (_, labels), row in zip(samples(trainer), chats(), strict=True):
        assert targets(labels) == [*ids_of(row["messages"][1]["content"]), END]


def test_conversations_as_prompt_and_completion(tmp_path: Path):
    rows = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in chats(6)]
    trainer = make_trainer(tmp_path, rows)
    for (_, labels), row in zip(samples(trainer), rows, strict=True):
        assert targets(labels) == [*ids_of(row["completion"][0]["content"]), END]


def test_the_earlier_spelling_of_conversations(tmp_path: Path):
    rows = [
        {"conversations": [{"from": one["role"], "value": one["content"]} for one in row["messages"]]}
        for row in chats(6)
    ]
    assert samples(make_trainer(tmp_path / "a", rows)) == samples(make_trainer(tmp_path / "b", chats(6)))


def test_tokens_stay_and_earlier_padding_does_not_count(tmp_path: Path):
    rows = [
        {"input_ids": [5, 6, 7, 0, 0], "attention_mask": [1, 1, 1, 0, 0], "completion_mask": [0, 1, 1, 1, 1]}
    ]
    assert samples(make_trainer(tmp_path, rows)) == [([5, 6, 7], [-100, 6, 7])]


def test_a_function_makes_texts_of_rows(tmp_path: Path):
    trainer = make_trainer(
        tmp_path, [{"x": "cat", "y": "dog"}], formatting_func=lambda row: f"{row['x']} {row['y']}"
    )
    assert samples(trainer)[0][0] == [*ids_of("cat dog"), END]


def test_long_examples_are_cut_and_those_without_a_target_are_left_out(tmp_path: Path):
    rows = [{"prompt": "a cat sees ", "completion": "a dog"}, {"prompt": "a ", "completion": "dog eats fish"}]
    trainer = make_trainer(tmp_path, rows, max_length=3)
    assert samples(trainer) == [(ids_of("a dog eats"), [-100, *ids_of("dog eats")])]


def test_the_end_may_be_kept(tmp_path: Path):
    trainer = make_trainer(tmp_path, [{"text": "a cat sees fish"}], max_length=2, truncation_mode="keep_end")
    assert samples(trainer)[0][0] == [*ids_of("fish"), END]


def test_plain_arguments_and_keywords_of_earlier_versions(tmp_path: Path):
    make_tokenizer().save_pretrained(tmp_path / "model")
    model = make_model()
    model.config._name_or_path = str(tmp_path / "model")
    args = TrainingArguments(
        output_dir=str(tmp_path), num_workers=0, max_steps=2, per_device_train_batch_size=2, save_strategy="no",
        use_cpu=True, optim="galore_adamw", optim_target_modules=["attn", "mlp"], disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=texts().rename_column("text", "words"),
        dataset_text_field="words",
        max_seq_length=6,
    )
    assert trainer.args.learning_rate == args.learning_rate
    assert max(len(ids) for ids, _ in samples(trainer)) == 6
    trainer.train()
    assert trainer.state.global_step == 2


def test_defaults_are_those_of_fine_tuning(tmp_path: Path):
    args = SFTConfig(output_dir=str(tmp_path))
    assert (args.learning_rate, args.logging_steps, args.activation_checkpointing, args.bf16) == (
        2e-5,
        10,
        True,
        True,
    )
    assert SFTConfig(output_dir=str(tmp_path), max_length=None).max_length is None


def test_a_command_line_reaches_every_field(tmp_path: Path):
    parser = raytrainer.HfArgumentParser(SFTConfig)
    (args,) = parser.parse_args_into_dataclasses(
        [
            "--output_dir",
            str(tmp_path),
            "--packing",
            "--max_length",
            "9",
            "--model_init_kwargs",
            '{"revision": "x"}',
        ]
    )
    assert (args.packing, args.max_length, args.model_init_kwargs) == (True, 9, {"revision": "x"})


def test_every_field_of_trl_is_known():
    trl = pytest.importorskip("trl")
    assert set(trl.SFTConfig.__dataclass_fields__) - set(SFTConfig.__dataclass_fields__) == set()


def test_a_stream_is_prepared_as_it_is_read_and_packed_in_order(tmp_path: Path):
    wanted = samples(make_trainer(tmp_path / "a", packing=True, packing_strategy="wrapped", max_length=16))
    stream = texts().to_iterable_dataset()
    trainer = make_trainer(tmp_path / "b", stream, packing=True, packing_strategy="wrapped", max_length=16)
    assert samples(trainer) == wanted
    trainer.train()
    assert trainer.state.global_step == 4


def test_rows_given_to_evaluate_are_prepared_there(tmp_path: Path):
    trainer = make_trainer(tmp_path, eval_dataset=texts(8))
    assert trainer.evaluate(texts(8))["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_samples_that_are_ready_are_taken_as_they_are(tmp_path: Path):
    rows = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}] * 4)
    trainer = make_trainer(tmp_path, rows, dataset_kwargs={"skip_prepare_dataset": True}, max_length=1)
    assert trainer.train_dataset is rows


def test_a_template_of_a_file(tmp_path: Path):
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    options: dict[str, Any] = {
        "chat_template_path": str(tmp_path / "chat.jinja"),
        "assistant_only_loss": True,
    }
    bare = make_trainer(tmp_path, chats(4), processing_class=make_tokenizer(template=None), **options)
    assert all(targets(labels) for _, labels in samples(bare))


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no form": ([{"x": 1}], {}, "not one of the known forms"),
    "images": ([{"images": [1], "text": "a"}], {}, "has images"),
    "no row": (Dataset.from_dict({"text": []}), {}, "has no row"),
    "no dataset": (object(), {}, "is a builtins.object"),
    "completion of texts": (
        None,
        {"completion_only_loss": True},
        "completion_only_loss=True, but the train dataset",
    ),
    "assistant of texts": (
        None,
        {"assistant_only_loss": True},
        "assistant_only_loss=True, but the train dataset",
    ),
    "completion of a function": (
        None,
        {"completion_only_loss": True, "formatting_func": str},
        "completion_only_loss",
    ),
    "function makes lists": (
        None,
        {"formatting_func": lambda row: [row["text"]]},
        "formatting_func returned a list",
    ),
    "no target": (
        [{"prompt": "a cat ", "completion": "sees"}],
        {"max_length": 2},
        "No example of the train dataset",
    ),
    "stream in processes": (texts().to_iterable_dataset(), {"dataset_num_proc": 2}, "is a stream"),
    "stream of best fit": (texts().to_iterable_dataset(), {"packing": True}, "packing_strategy='wrapped'"),
    "transform": (texts().with_transform(lambda rows: rows), {}, "has a transform"),
    "no such end": (None, {"eos_token": "<stop>"}, "eos_token='<stop>' is not a token"),
    "no such filling": (None, {"pad_token": "<fill>"}, "pad_token='<fill>' is not a token"),
    "no block": (None, {"packing": True, "max_length": None}, "needs a block size"),
    "two losses": (
        None,
        {"loss_type": "dft", "label_smoothing_factor": 0.1},
        "loss_type='dft' is a loss of its own",
    ),
    "offloading": (None, {"activation_offloading": True}, "`activation_offloading` is not available"),
    "router": (None, {"router_aux_loss_coef": 0.1}, "`router_aux_loss_coef` is not available"),
    "options": (None, {"dataset_kwargs": {"add_special_tokens": False}}, "add_special_tokens"),
    "a model that exists": (None, {"model_init_kwargs": {"dtype": "bfloat16"}}, "not given by name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_by_the_constructor(case: str, tmp_path: Path):
    dataset, options, message = REFUSED[case]
    model = {"model": make_model()} if "a model" in case else {}
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        make_trainer(tmp_path, dataset, **model, **options)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        (TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", ""), "marks"),
    ],
)
def test_a_template_that_cannot_do_it_is_refused(template: str | None, message: str, tmp_path: Path):
    tokenizer = make_tokenizer(template=template)
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(tmp_path, chats(), processing_class=tokenizer, assistant_only_loss=True)


def test_a_model_of_nowhere_needs_a_tokenizer(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="the origin of the model is unknown"):
        SFTTrainer(model=make_model(), args=make_args(tmp_path), train_dataset=texts())


def test_a_keyword_and_a_field_that_contradict_each_other(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="contradict"):
        SFTTrainer(model=make_model(), args=make_args(tmp_path, max_length=8), max_seq_length=9)


def test_an_unknown_keyword_is_a_type_error_with_the_nearest_name(tmp_path: Path):
    with pytest.raises(TypeError, match="Did you mean 'max_seq_length'"):
        SFTTrainer(model=make_model(), args=make_args(tmp_path), max_seqlength=9)
