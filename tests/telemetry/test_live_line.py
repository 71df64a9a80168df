"""The live line at the bottom of a terminal, and other writers to that terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading

from raytrainer.telemetry.live_line import LiveLine
from tests.telemetry.terminal import Stream


@contextlib.contextmanager
def at_a_terminal():
    """One terminal that is stdout and stderr. Inside of the test: pytest sets both again after the fixtures."""
    terminal = Stream(is_terminal=True)
    with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
        live = LiveLine(terminal)
        try:
            yield terminal, live
        finally:
            live.hide()


def test_the_line_is_rewritten_in_place():
    with at_a_terminal() as (terminal, live):
        live.show("a long first text")
        live.show("short")
        assert terminal.screen() == ["short"]


def test_a_hidden_line_leaves_nothing():
    with at_a_terminal() as (terminal, live):
        live.show("something")
        live.hide()
        assert terminal.screen() == [""]


def test_prints_pass_above_the_line():
    with at_a_terminal() as (terminal, live):
        live.show("the line")
        print("hello", "world")
        assert terminal.screen() == ["hello world", "the line"]


def test_a_line_that_somebody_has_begun_is_left_alone_until_it_ends():
    with at_a_terminal() as (terminal, live):
        live.show("the line")
        print("name: ", end="")
        live.show("the line, later")
        assert terminal.screen() == ["name:"]
        print("joe")
        assert terminal.screen() == ["name: joe", "the line, later"]


def test_own_lines_do_not_continue_a_line_that_somebody_has_begun():
    with at_a_terminal() as (terminal, live):
        live.show("the line")
        print("half", end="")
        with live.lifted():
            terminal.write("ours\n")
        assert terminal.screen() == ["half", "ours", "the line"]


def test_records_of_a_handler_that_knows_stderr_from_before_pass_above():
    with at_a_terminal() as (terminal, live):
        handler, talker = logging.StreamHandler(sys.stderr), logging.getLogger("talker")
        talker.addHandler(handler)
        try:
            live.show("the line")
            talker.warning("careful")
            assert terminal.screen() == ["careful", "the line"]
            live.hide()
            assert handler.stream is terminal
        finally:
            talker.removeHandler(handler)


def test_hiding_gives_the_streams_back():
    with at_a_terminal() as (terminal, live):
        live.show("the line")
        assert sys.stdout is not terminal
        live.hide()
        assert sys.stdout is terminal
        assert sys.stderr is terminal


def test_a_stream_that_somebody_replaced_meanwhile_stays_replaced(monkeypatch):
    with at_a_terminal() as (_terminal, live):
        live.show("the line")
        other = Stream()
        monkeypatch.setattr(sys, "stdout", other)
        live.hide()
        assert sys.stdout is other


def test_stdout_that_is_a_file_is_not_guarded(monkeypatch):
    with at_a_terminal() as (terminal, live):
        file = Stream()
        monkeypatch.setattr(sys, "stdout", file)
        live.show("the line")
        print("result")
        assert sys.stdout is file
        assert terminal.screen() == ["the line"]


def test_a_stream_that_is_not_stderr_guards_nothing():
    with at_a_terminal() as (terminal, _live):
        LiveLine(Stream(is_terminal=True)).show("the line")
        assert sys.stderr is terminal


def test_a_terminal_that_goes_away_harms_nobody():
    with at_a_terminal() as (terminal, live):
        live.show("the line")
        guarded, sys.stdout = sys.stdout, Stream()
        terminal.write = lambda _: (_ for _ in ()).throw(BrokenPipeError())
        live.show("more")
        live.hide()
        sys.stdout = guarded


def test_threads_that_print_and_show_never_tear_a_line():
    with at_a_terminal() as (terminal, live):

        def talk(name):
            for index in range(50):
                sys.stdout.write(f"{name} {index}\n")
                live.show(f"line {name} {index}")

        threads = [threading.Thread(target=talk, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        *printed, last = terminal.screen()
        assert sorted(printed) == sorted(f"{name} {index}" for name in "abc" for index in range(50))
        assert last.startswith("line ")
