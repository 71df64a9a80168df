"""The block at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrainer.telemetry.paint import ASCII, Paint
from raytrainer.telemetry.summary import RunFacts, run_status, run_summary
from tests.telemetry.terminal import without_color

METRICS = {
    "train_runtime": 118.2,
    "train_samples_per_second": 58.1,
    "train_steps_per_second": 2.54,
    "train_loss": 0.455,
    "epoch": 3.0,
}
EVALUATION = {
    "eval_loss": 0.66,
    "eval_accuracy": 0.713,
    "eval_runtime": 9.1,
    "eval_steps_per_second": 1,
    "epoch": 3.0,
}


def facts(**changes):
    values = {"step": 300, "max_steps": 300, "epoch": 3.0, "metrics": METRICS, "eval_metrics": EVALUATION}
    return RunFacts(
        **{**values, "last_loss": 0.412, "places": {"checkpoints": str(Path.cwd() / "runs")}, **changes}
    )


def test_the_summary_says_how_it_went_and_where_everything_lies():
    assert run_summary(facts(), width=56).split("\n") == [
        "── finished ────────────────────────────────────────────",
        "   steps          300 of 300 · 3 epochs",
        "   time           1:58 · 58.10 samples/s · 2.540 steps/s",
        "   loss           0.4120 at the end · 0.4550 on average",
        "",
        "   eval_accuracy  0.7130",
        "   eval_loss      0.6600",
        "",
        "   checkpoints    runs",
        "────────────────────────────────────────────────────────",
    ]


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, "finished"), ({"step": 120}, "stopped early"), ({"step": 120, "interrupted": True}, "interrupted")],
)
def test_the_status_tells_finished_from_stopped_and_interrupted(changes, status):
    assert run_status(facts(**changes)) == status


def test_a_run_of_unknown_length_is_finished():
    assert run_status(facts(max_steps=0)) == "finished"


def test_a_run_without_metrics_still_has_its_steps():
    assert "   steps  7" in run_summary(RunFacts(step=7)).split("\n")


def test_one_epoch_is_singular():
    assert "1 epoch\n" in run_summary(facts(epoch=1.0))


def test_a_narrow_terminal_gets_values_that_break_between_words():
    lines = run_summary(facts(), width=44).split("\n")
    assert max(map(len, lines)) <= 44
    assert "   time           1:58 · 58.10 samples/s · " in "".join(f"{line} " for line in lines)
    assert " " * 18 + "2.540 steps/s" in lines


def test_paths_are_never_cut(tmp_path):
    deep = tmp_path / ("x" * 120)
    assert "x" * 120 in run_summary(facts(places={"model": str(deep)}), width=40)


def test_without_utf8_the_summary_is_ascii():
    assert run_summary(facts(), glyphs=ASCII).isascii()


def test_color_changes_no_text():
    assert without_color(run_summary(facts(), paint=Paint(on=True))) == run_summary(facts())
