"""The log file of a rank."""

from __future__ import annotations

import contextlib
import io
import logging
import sys

from raytrainer.telemetry.logfile import attach_rank_log, detach_rank_log

ours = logging.getLogger("raytrainer.somewhere")


@contextlib.contextmanager
def unconfigured_logging():
    """A root logger as a fresh process has it. Inside of the test: pytest hangs its handlers on it after fixtures."""
    root, house = logging.root, logging.getLogger("raytrainer")
    handlers, level, house_level = root.handlers[:], root.level, house.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    house.setLevel(logging.NOTSET)
    try:
        yield
    finally:
        detach_rank_log()
        root.handlers[:] = handlers
        root.setLevel(level)
        house.setLevel(house_level)


@unconfigured_logging()
def test_our_info_and_foreign_warnings_reach_the_file(tmp_path):
    path = attach_rank_log(tmp_path / "logs", 1)
    ours.info("Resuming at step %d.", 40)
    logging.getLogger("somebody").warning("careful")
    text = path.read_text()
    assert path == tmp_path / "logs" / "rank-1.log"
    assert "INFO    raytrainer.somewhere: Resuming at step 40." in text
    assert "WARNING somebody: careful" in text


@unconfigured_logging()
def test_attaching_twice_writes_everything_once(tmp_path):
    for _ in range(2):
        path = attach_rank_log(tmp_path, 0)
    ours.info("once")
    assert path.read_text().count("once") == 1
    assert path.read_text().count("rank 0, pid") == 1


@unconfigured_logging()
def test_a_new_attempt_appends_a_header(tmp_path):
    attach_rank_log(tmp_path, 0, run_id="r1", attempt=0)
    ours.info("before")
    detach_rank_log()
    path = attach_rank_log(tmp_path, 0, run_id="r1", attempt=1)
    attach_rank_log(tmp_path, 0, run_id="r1", attempt=2)
    text = path.read_text()
    positions = [text.index(part) for part in ("attempt 1", "before", "attempt 2", "attempt 3")]
    assert positions == sorted(positions)
    assert "run r1" in text


@unconfigured_logging()
def test_another_directory_leaves_the_former_file(tmp_path):
    first = attach_rank_log(tmp_path / "a", 0)
    second = attach_rank_log(tmp_path / "b", 0)
    ours.info("to the second")
    assert "to the second" not in first.read_text()
    assert "to the second" in second.read_text()


@unconfigured_logging()
def test_warnings_still_reach_stderr_when_nobody_configured_logging(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    attach_rank_log(tmp_path, 0)
    ours.warning("seen")
    ours.info("only in the file")
    assert sys.stderr.getvalue() == "seen\n"


@unconfigured_logging()
def test_handlers_of_the_user_do_not_print_more_than_before(tmp_path):
    printed = io.StringIO()
    logging.root.addHandler(logging.StreamHandler(printed))
    attach_rank_log(tmp_path, 0)
    ours.info("only in the file")
    ours.warning("seen")
    assert printed.getvalue() == "seen\n"


@unconfigured_logging()
def test_a_logger_that_does_not_propagate_is_kept_too(tmp_path):
    alone = logging.getLogger("keeps_to_itself")
    alone.propagate = False
    try:
        path = attach_rank_log(tmp_path, 0)
        alone.warning("heard")
        assert "heard" in path.read_text()
    finally:
        alone.propagate = True


@unconfigured_logging()
def test_detaching_leaves_logging_as_it_was(tmp_path):
    attach_rank_log(tmp_path, 0)
    detach_rank_log()
    assert logging.root.handlers == []
    assert logging.getLogger("raytrainer").level == logging.NOTSET
    detach_rank_log()


@unconfigured_logging()
def test_an_exception_comes_with_its_traceback(tmp_path):
    path = attach_rank_log(tmp_path, 0)
    try:
        raise RuntimeError("shape")
    except RuntimeError:
        ours.exception("The step failed.")
    assert "Traceback" in path.read_text()
