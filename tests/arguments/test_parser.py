"""Command lines, dicts, JSON and YAML files, with current and earlier names."""

from __future__ import annotations

import dataclasses
import json

import pytest
import transformers

from raytrainer import ConfigurationError, HfArgumentParser, TrainingArguments
from raytrainer.errors import UnknownArgumentError

old_names = pytest.mark.filterwarnings("ignore::FutureWarning")


@dataclasses.dataclass
class ModelArguments:
    model_name_or_path: str = dataclasses.field(metadata={"help": "Which model."})
    warmup_ratio: float = dataclasses.field(default=0.5, metadata={"help": "A field of the script's own."})


def parse(line: str, parser_class: type = HfArgumentParser) -> TrainingArguments:
    return parser_class(TrainingArguments).parse_args_into_dataclasses(
        line.split(), look_for_args_file=False
    )[0]


@pytest.mark.parametrize("parser_class", [HfArgumentParser, transformers.HfArgumentParser])
@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--num_workers 4", "num_workers", 4),
        ("--num-workers 0", "num_workers", 0),
        ("--num_workers 1,4", "num_workers", (1, 4)),
        ("--use_gpu", "use_gpu", True),
        ("--use_gpu false", "use_gpu", False),
        ('--resources_per_worker {"CPU":2,"GPU":0.5}', "resources_per_worker", {"CPU": 2, "GPU": 0.5}),
        ("--placement_strategy SPREAD", "placement_strategy", "SPREAD"),
        ("--accelerator_type A100", "accelerator_type", "A100"),
        ('--label_selector {"zone":"a"}', "label_selector", {"zone": "a"}),
        ("--max_failures -1", "max_failures", -1),
        ("--ray_address auto", "ray_address", "auto"),
        ("--worker_idle_timeout_s 5", "worker_idle_timeout_s", 5.0),
        ("--cluster_timeout_s 0.5", "cluster_timeout_s", 0.5),
        ("--logging_nan_inf_filter", "logging_nan_inf_filter", True),
        ("--bf16 --eval_strategy epoch", "eval_strategy", "epoch"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_command_line_reaches_the_field(parser_class, line, field, value):
    assert getattr(parse(line, parser_class), field) == value


def test_help_lists_todays_names_only():
    text = HfArgumentParser(TrainingArguments).format_help()
    assert "--num_workers" in text
    assert "--evaluation_strategy" not in text


@pytest.mark.parametrize("parser_class", [HfArgumentParser, transformers.HfArgumentParser])
def test_every_field_explains_itself(parser_class):
    for field in dataclasses.fields(TrainingArguments):
        assert field.metadata.get("help"), field.name
    parser_class(TrainingArguments).format_help()


@old_names
def test_the_guides_command_line_parses():
    args = parse("--overwrite_output_dir --evaluation_strategy steps --warmup_ratio 0.1 --no_cuda --do_train")
    assert (args.eval_strategy, args.warmup_steps, args.use_cpu, args.do_train) == ("steps", 0.1, True, True)
    assert args.overwrite_output_dir is True


@old_names
@pytest.mark.parametrize("line", ["--warmup-ratio 0.1", "--warmup_ratio=0.1"])
def test_old_options_have_argparse_spellings(line):
    assert parse(line).warmup_steps == 0.1


def test_old_option_warns_once():
    with pytest.warns(FutureWarning, match="evaluation_strategy") as caught:
        parse("--evaluation_strategy steps")
    assert len(caught) == 1


@old_names
def test_old_and_new_option_with_different_values_are_an_error():
    with pytest.raises(ConfigurationError, match="contradict each other"):
        parse("--evaluation_strategy steps --eval_strategy epoch")


def test_unknown_option_is_named_with_the_nearest():
    with pytest.raises(UnknownArgumentError, match=r"'num_worker_count'.*'num_workers'"):
        parse("--num_worker_count 3")


def test_words_that_belong_to_no_option_are_named():
    with pytest.raises(UnknownArgumentError, match="'stray'"):
        parse("stray")


def test_remaining_strings_are_returned_when_asked_for():
    parser = HfArgumentParser(TrainingArguments)
    _, rest = parser.parse_args_into_dataclasses(["--mine", "3"], return_remaining_strings=True)
    assert rest == ["--mine", "3"]


def test_field_of_another_dataclass_wins_over_an_alias():
    parser = HfArgumentParser((ModelArguments, TrainingArguments))
    model, args = parser.parse_args_into_dataclasses(["--model_name_or_path", "m", "--warmup_ratio", "0.7"])
    assert (model.warmup_ratio, args.warmup_steps) == (0.7, 0)


def test_parser_without_training_arguments_is_the_plain_one():
    (model,) = HfArgumentParser(ModelArguments).parse_args_into_dataclasses(["--model_name_or_path", "m"])
    assert model.model_name_or_path == "m"


@old_names
def test_arguments_file_beside_the_script_is_read(tmp_path):
    path = tmp_path / "run.args"
    path.write_text("--evaluation_strategy epoch --num_workers 3")
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses([], args_filename=str(path))
    assert (args.eval_strategy, args.num_workers) == ("epoch", 3)


OPTIONS = {
    "num_workers": 2,
    "evaluation_strategy": "epoch",
    "resources_per_worker": {"CPU": 1},
    "no_cuda": True,
}


@old_names
@pytest.mark.parametrize("source", ["dict", "json", "yaml"])
def test_files_and_dicts_take_old_names(tmp_path, source):
    path = tmp_path / "options"
    path.write_text(json.dumps(OPTIONS))  # JSON is YAML
    parser = HfArgumentParser(TrainingArguments)
    parse_source = {
        "dict": lambda: parser.parse_dict(OPTIONS),
        "json": lambda: parser.parse_json_file(path),
        "yaml": lambda: parser.parse_yaml_file(path),
    }
    (args,) = parse_source[source]()
    assert (args.num_workers, args.eval_strategy, args.use_cpu) == (2, "epoch", True)
    assert args.resources_per_worker == {"CPU": 1}
    assert args.no_cuda is True


@pytest.mark.parametrize("parser_class", [HfArgumentParser, transformers.HfArgumentParser])
def test_yaml_reads_what_yaml_users_write(tmp_path, parser_class):
    path = tmp_path / "run.yaml"
    path.write_text(
        "learning_rate: 5e-5\nsave_strategy: no\neval_strategy: epoch\nmax_steps: '7'\nnum_workers: 2\n"
    )
    (args,) = parser_class(TrainingArguments).parse_yaml_file(path)
    assert (args.learning_rate, args.save_strategy, args.max_steps) == (5e-5, "no", 7)
    assert isinstance(args.max_steps, int)


def test_unknown_key_is_named_with_the_nearest():
    with pytest.raises(UnknownArgumentError, match=r"'num_wokers'.*'num_workers'"):
        HfArgumentParser(TrainingArguments).parse_dict({"num_wokers": 1})


def test_extra_keys_are_allowed_when_asked_for():
    (args,) = HfArgumentParser(TrainingArguments).parse_dict({"mine": 1, "seed": 3}, allow_extra_keys=True)
    assert args.seed == 3
