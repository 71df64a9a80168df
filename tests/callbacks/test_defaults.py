"""Which callbacks every run has."""

from __future__ import annotations

from transformers import TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback

from raytrainer.callbacks.defaults import default_callbacks


def test_without_reporters_only_the_default_flow_is_there(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert default_callbacks(args) == [DefaultFlowCallback]


def test_reporters_follow_the_default_flow(tmp_path):
    from transformers.integrations import TensorBoardCallback

    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    args.report_to = ["tensorboard"]
    flow, reporter = default_callbacks(args)
    assert flow is DefaultFlowCallback
    assert isinstance(reporter, TensorBoardCallback)
