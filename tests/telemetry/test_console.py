"""What the user sees during a run."""

from __future__ import annotations

import threading

import pytest

from raytrainer.telemetry import events
from raytrainer.telemetry.console import Renderer, Shown
from tests.telemetry.terminal import Clock, Stream

ROWS = [events.EngagedRow(what="workers", requested="2", engaged="2")]
LOGS = {"loss": 0.5, "learning_rate": 4e-05, "epoch": 0.5}


def started(**changes):
    values = {"max_steps": 100, "first_step": 0, "num_epochs": 1, "attempt": 0, "rows": ROWS}
    return events.TrainStarted(**{**values, **changes})


def step(number, **changes):
    values = {
        "step": number,
        "max_steps": 100,
        "epoch": number / 100,
        "samples_per_s": [29.1, 29.0],
        "eta_s": 70.0,
    }
    return events.StepDone(**{**values, **changes})


def logged(number, logs=None):
    return events.Logged(step=number, max_steps=100, logs=LOGS if logs is None else logs)


def batch(done, total=4):
    return events.PredictionStep(description="Evaluation", done=done, total=total)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def terminal():
    return Stream(is_terminal=True)


@pytest.fixture
def renderer(terminal, clock):
    return Renderer(terminal, width=120, clock=clock)


@pytest.fixture
def file():
    return Stream()


@pytest.fixture
def plain(file, clock):
    return Renderer(file, clock=clock)


def play(renderer, clock, *what):
    for event in what:
        clock.now += 1
        renderer.handle(event)


# ---- On a terminal ----------------------------------------------------------------------------------------------


def test_the_live_line_stands_below_the_log_lines(renderer, terminal, clock):
    play(renderer, clock, started(), step(40), logged(40), step(45))
    *above, line = terminal.screen()
    assert above[-2:] == [
        "            loss  learning_rate    epoch",
        " 40/100   0.5000      4.000e-05    0.500",
    ]
    assert line == (
        " 45% ━━━━╸━━━━━  45/100 · epoch 0.45 · loss 0.500 · lr 4.0e-05 · "
        "2 workers 58.1 samples/s (29.1 + 29.0) · 1:10 left"
    )


def test_the_table_is_shown_once(renderer, terminal, clock):
    play(
        renderer,
        clock,
        started(),
        step(40),
        started(attempt=1, first_step=40, resumed_from="/r/checkpoint-40"),
    )
    assert "\n".join(terminal.screen()).count("requested") == 1


def test_a_restart_says_in_one_line_where_it_goes_on(renderer, terminal, clock):
    play(renderer, clock, started(), started(attempt=1, first_step=40, resumed_from="/r/checkpoint-40"))
    assert "restarted (attempt 2) from checkpoint-40, step 40 of 100" in terminal.screen()


def test_a_restart_without_a_checkpoint_says_so(renderer, terminal, clock):
    play(renderer, clock, started(), started(attempt=1))
    assert "restarted (attempt 2) from the beginning" in terminal.screen()


def test_a_restart_with_something_else_engaged_says_what(renderer, terminal, clock):
    rows = [events.EngagedRow(what="workers", requested="1-2", engaged="1")]
    play(renderer, clock, started(), started(attempt=1, rows=rows))
    assert "engaged now: workers 2 -> 1" in terminal.screen()


def test_a_restart_before_anything_was_shown_shows_the_table(renderer, terminal, clock):
    play(renderer, clock, started(attempt=1))
    assert "requested" in "\n".join(terminal.screen())


def test_a_resumed_run_says_from_where(renderer, terminal, clock):
    play(renderer, clock, started(first_step=40, resumed_from="s3://b/r/checkpoint-40"))
    assert "resumed from checkpoint-40, step 40 of 100" in terminal.screen()


def test_a_resumed_run_that_had_ended_says_that_nothing_is_left(renderer, terminal, clock):
    play(renderer, clock, started(first_step=100, resumed_from="/r/checkpoint-100"))
    text = " ".join(terminal.screen())
    assert "step 100 of 100: nothing is left to train, unless max_steps or num_train_epochs is raised" in text


def test_an_evaluation_takes_the_line_and_gives_it_back(renderer, terminal, clock):
    play(renderer, clock, started(), step(50), batch(2))
    assert terminal.screen()[-1] == "Evaluation  50% ━━━━━╺━━━━ 2/4"
    play(renderer, clock, events.PredictionDone(description="Evaluation"))
    assert terminal.screen()[-1].startswith(" 50% ━")


def test_an_evaluation_alone_leaves_only_its_metrics(renderer, terminal, clock):
    done = events.PredictionDone(description="Evaluation")
    play(renderer, clock, batch(1), batch(4), done, logged(100, {"eval_loss": 0.5}))
    assert terminal.screen() == ["100/100  eval_loss=0.5000"]


def test_a_commit_is_a_short_line(renderer, terminal, clock):
    commit = events.CheckpointCommitted(step=40, path="/r/checkpoint-40", num_bytes=91_000_000, seconds=0.41)
    play(renderer, clock, commit)
    assert terminal.screen() == ["checkpoint-40 committed (91 MB, 0.4 s)"]


def test_warnings_are_yellow(renderer, terminal, clock):
    play(renderer, clock, events.Note(text="worker 1 is slow", level="warning"), events.Note(text="all well"))
    assert "\x1b[33mwarning: worker 1 is slow\x1b[0m" in terminal.getvalue()
    assert terminal.screen() == ["warning: worker 1 is slow", "all well"]


def test_warnings_break_between_words_and_keep_paths(terminal, clock):
    path = "/a" * 40
    text = f"the disk of {path} is almost full, and the rest of this has several lines"
    play(Renderer(terminal, width=40, clock=clock), clock, events.Note(text=text, level="warning"))
    lines = terminal.screen()
    assert " ".join(lines) == f"warning: {text}"
    assert [line for line in lines if len(line) > 40] == [path]


def test_no_color_is_respected(terminal, clock, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    play(
        Renderer(terminal, width=120, clock=clock),
        clock,
        started(),
        step(3),
        logged(3, {"loss": float("nan")}),
    )
    assert "\x1b[3" not in terminal.getvalue()
    assert terminal.screen()[-1].startswith("  3% ")


def test_disable_switches_the_bar_off_and_keeps_the_log_lines(terminal, clock):
    play(
        Renderer(terminal, width=120, clock=clock, shown=lambda: Shown(progress=False)),
        clock,
        started(),
        step(40),
        batch(1),
        logged(40),
    )
    assert "\r" not in terminal.getvalue()
    assert terminal.screen()[-1].startswith(" 40/100   0.5000")


def test_the_line_changes_at_most_a_dozen_times_a_second(renderer, terminal, clock):
    renderer.handle(started())
    before = terminal.getvalue().count("\r")
    for number in range(1, 101):
        clock.now += 0.01
        renderer.handle(step(number))
    assert terminal.getvalue().count("\r") - before <= 13


def test_the_summary_replaces_the_line(renderer, terminal, clock):
    metrics = {"train_runtime": 118.2, "train_loss": 0.6, "epoch": 1.0}
    ended = events.TrainEnded(step=100, metrics=metrics, places={"checkpoints": "/r"})
    play(renderer, clock, started(), step(100), logged(100), logged(100, {"eval_accuracy": 0.7}), ended)
    text = "\n".join(terminal.screen())
    for part in (
        "finished",
        "100 of 100 · 1 epoch",
        "0.5000 at the end",
        "eval_accuracy  0.7000",
        "checkpoints    /r",
    ):
        assert part in text
    assert "━" not in text


def test_the_evaluation_of_the_last_step_is_shown_once_by_the_summary(renderer, terminal, clock):
    first, second = {"eval_a_loss": 0.25, "eval_a_runtime": 1.5}, {"eval_b_loss": 0.75, "eval_b_runtime": 1.5}
    play(renderer, clock, started(), step(100), logged(100), logged(100, first), logged(100, second))
    play(renderer, clock, events.TrainEnded(step=100))
    text = "\n".join(terminal.screen())
    assert text.count("eval_a_loss") == text.count("0.2500") == 1
    assert text.count("eval_b_loss") == text.count("0.7500") == 1


def test_an_evaluation_of_the_last_step_without_a_summary_is_a_line(renderer, terminal, clock):
    play(renderer, clock, started(), step(100), logged(100, {"eval_loss": 0.25}))
    renderer.close()
    assert terminal.screen()[-1] == "100/100  eval_loss=0.2500"


def test_a_file_has_a_line_for_the_last_evaluation(plain, file, clock):
    play(plain, clock, started(), step(100), logged(100, {"eval_loss": 0.25}), events.TrainEnded(step=100))
    assert "100/100  eval_loss=0.2500\n" in file.getvalue()


def test_an_evaluation_in_between_is_short(renderer, terminal, clock):
    logs = {"eval_loss": 0.25, "eval_runtime": 5.69, "eval_steps_per_second": 0.7, "epoch": 0.4}
    play(renderer, clock, started(), step(40), logged(40, logs))
    assert terminal.screen()[-2] == " 40/100  eval_loss=0.2500  (5.7 s)"


def test_until_training_starts_the_line_says_what_is_waited_for(renderer, terminal, clock):
    play(renderer, clock, events.WaitBegun(what="starting the workers"))
    assert terminal.screen()[-1].endswith("starting the workers")
    clock.now += 5
    play(renderer, clock, events.Busy(what="the set-up of the workers"))
    assert renderer.tick()
    assert terminal.screen()[-1].endswith("waiting for the set-up of the workers  6 s")
    play(renderer, clock, started(), step(1))
    assert terminal.screen()[-1].startswith("  1%")
    assert not renderer.tick()


def test_after_a_death_the_line_says_that_workers_start_again(renderer, terminal, clock):
    death = events.Note(text="rank 1 died", level="warning", kind="restart")
    play(renderer, clock, started(), step(40), death)
    assert terminal.screen()[-2] == "warning: rank 1 died"
    assert terminal.screen()[-1].endswith("starting the workers again")
    play(renderer, clock, started(attempt=1, first_step=20, resumed_from="/r/checkpoint-20"))
    assert terminal.screen()[-1].startswith(" 20%")
    renderer.close()


def test_nothing_ticks_when_the_run_is_over(renderer, terminal, clock):
    play(renderer, clock, events.WaitBegun(what="starting the workers"))
    renderer.close()
    before = terminal.getvalue()
    assert not renderer.tick()
    assert terminal.getvalue() == before


def test_a_run_that_ends_before_its_last_step_stopped_early(renderer, terminal, clock):
    play(renderer, clock, started(), step(40), events.TrainEnded(step=40))
    assert "stopped early" in "\n".join(terminal.screen())


def test_an_interrupted_run_says_so(renderer, terminal, clock):
    play(renderer, clock, started(), step(40), events.TrainEnded(step=40, interrupted=True))
    assert "interrupted" in "\n".join(terminal.screen())


def test_a_step_that_arrives_after_the_end_does_not_bring_the_line_back(renderer, terminal, clock):
    play(renderer, clock, started(), events.TrainEnded(step=100))
    before = terminal.getvalue()
    play(renderer, clock, step(100))
    assert terminal.getvalue() == before


def test_close_takes_the_line_away(renderer, terminal, clock):
    play(renderer, clock, started(), step(40))
    renderer.close()
    assert "━" not in "\n".join(terminal.screen())


# ---- Without a terminal -----------------------------------------------------------------------------------------


def test_a_file_says_nothing_of_waiting(plain, file, clock):
    play(plain, clock, events.WaitBegun(what="starting the workers"), events.Busy(what="a save"))
    assert file.getvalue() == ""


def test_a_file_gets_one_plain_line_for_each_log_and_no_control_characters(plain, file, clock):
    play(plain, clock, started(), step(40), logged(40), batch(1), step(60), logged(60))
    assert "\r" not in file.getvalue()
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().count("loss=0.5000") == 2


def test_the_final_metrics_are_a_line_too_in_a_file(plain, file, clock):
    play(plain, clock, started(), logged(100, {"train_runtime": 118.2}))
    assert "100/100  train_runtime=118.2\n" in file.getvalue()


def test_progress_in_a_file_is_ten_seconds_and_ten_percent_apart(plain, file, clock):
    plain.handle(started(rows=[]))
    for number in range(1, 101):
        clock.now += 2
        plain.handle(step(number))
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith(" 10%  10/100 · epoch 0.10")


def test_progress_in_a_file_of_a_fast_run_is_silent(plain, file, clock):
    plain.handle(started(rows=[]))
    for number in range(1, 101):
        clock.now += 0.09
        plain.handle(step(number))
    assert file.getvalue() == ""


def test_progress_in_a_file_of_a_slow_run_comes_every_five_minutes(plain, file, clock):
    plain.handle(started(rows=[], max_steps=10**6))
    for number in range(1, 61):
        clock.now += 60
        plain.handle(step(number, max_steps=10**6))
    assert len(file.getvalue().splitlines()) == 12


def test_disable_silences_progress_in_a_file(file, clock):
    renderer = Renderer(file, clock=clock, shown=lambda: Shown(progress=False))
    renderer.handle(started(rows=[]))
    for number in range(1, 101):
        clock.now += 20
        renderer.handle(step(number))
    assert file.getvalue() == ""


def test_a_dumb_terminal_gets_lines_of_its_width_none_of_which_is_written_again(terminal, clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    renderer = Renderer(terminal, width=60, clock=clock)
    logs = {"eval_loss": 0.5, "eval_accuracy": 0.25, "eval_runtime": 2.0, "eval_samples_per_second": 1143.25}
    play(renderer, clock, started(), step(40), logged(40), logged(40, logs))
    text = terminal.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    assert "eval_accuracy=0.2500" in text
    assert "eval_samples_per_second" not in text
    assert max(map(len, text.splitlines())) <= 60


def test_logs_go_to_stdout_and_the_line_to_stderr(terminal, file, clock):
    renderer = Renderer(file, progress_stream=terminal, width=120, clock=clock)
    play(renderer, clock, started(rows=[]), logged(40), step(41))
    assert file.getvalue().startswith(" 40/100  loss=0.5000")
    assert terminal.screen()[0].startswith(" 41% ━")


def test_a_stream_that_is_not_utf8_gets_ascii(clock):
    stream = Stream(encoding="ascii")
    ended = events.TrainEnded(step=100, places={"model": "/훈련"})
    play(Renderer(stream, clock=clock), clock, started(), logged(40, {"정확도": 0.5}), ended)
    assert stream.getvalue().isascii()
    assert "=0.5000" in stream.getvalue()


# ---- Never in the way of training -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("error", [BrokenPipeError, ValueError, RuntimeError])
def test_a_stream_that_fails_never_raises_into_training(is_terminal, error, clock):
    class Failing(Stream):
        def write(self, text):
            raise error("gone")

    renderer = Renderer(Failing(is_terminal), width=80, clock=clock)
    play(
        renderer,
        clock,
        started(),
        step(1),
        logged(1),
        batch(1),
        events.Note(text="x"),
        events.TrainEnded(step=1),
    )
    renderer.close()


def test_an_unknown_event_is_ignored(renderer, terminal):
    renderer.handle(object())
    assert terminal.getvalue() == ""


def test_an_event_with_unexpected_contents_is_not_an_error(renderer):
    renderer.handle(events.Logged(step=1, max_steps=2, logs=None))


def test_several_threads_never_tear_a_line(renderer, terminal):
    renderer.handle(started())

    def talk(number):
        for index in range(40):
            renderer.handle(step(index))
            renderer.handle(events.Note(text=f"note {number} {index}"))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notes = sorted(line for line in terminal.screen() if line.startswith("note"))
    assert notes == sorted(f"note {number} {index}" for number in range(3) for index in range(40))
