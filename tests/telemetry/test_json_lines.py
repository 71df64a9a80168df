"""Lines are appended whole, and a torn one is cut off by the next writer and skipped by readers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raytrainer.telemetry.json_lines import JsonLines, LinesSince, plain, read_lines

WRITER = """
import sys
from pathlib import Path
from raytrainer.telemetry.json_lines import JsonLines
lines = JsonLines(Path(sys.argv[1]))
number = 0
while True:
    lines.append({"number": number, "text": "x" * 3000})
    number += 1
    if number == 50:
        print("going", flush=True)
"""


def test_a_line_is_in_the_file_when_append_returns(tmp_path: Path):
    lines = JsonLines(tmp_path / "new" / "a.jsonl")
    lines.append({"a": 1})
    assert (tmp_path / "new" / "a.jsonl").read_text() == '{"a":1}\n'


@pytest.mark.timeout(60)
def test_a_kill_leaves_no_torn_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "going\n"
        writer.send_signal(signal.SIGKILL)
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["number"] for line in lines] == list(range(len(lines)))
    assert len(lines) >= 50


@pytest.mark.parametrize("torn", [b'{"b": ', b"x" * 200_000])
def test_the_next_writer_cuts_a_torn_line_off(torn: bytes, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n' + torn)
    assert list(read_lines(path)) == [{"a": 1}]
    JsonLines(path).append({"c": 2})
    assert path.read_bytes() == b'{"a":1}\n{"c":2}\n'


def test_a_file_of_a_torn_line_alone_becomes_empty(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a"')
    JsonLines(path).append({"c": 2})
    assert list(read_lines(path)) == [{"c": 2}]


def test_lines_of_several_processes_do_not_mix(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    writers = [JsonLines(path), JsonLines(path)]
    for number in range(20):
        writers[number % 2].append({"number": number})
    assert [line["number"] for line in read_lines(path)] == list(range(20))


def test_numbers_that_json_lacks_are_written_as_words():
    found = plain({"a": math.nan, "b": [math.inf, -math.inf], "c": True, "d": None, 1: Path("x")})
    assert found == {"a": "NaN", "b": ["Infinity", "-Infinity"], "c": True, "d": None, "1": "x"}


def test_the_end_of_a_file_is_read_without_its_beginning(tmp_path: Path):
    lines = JsonLines(tmp_path / "a.jsonl")
    for number in range(1000):
        lines.append({"number": number})
    numbers = [line["number"] for line in read_lines(tmp_path / "a.jsonl", tail_bytes=200)]
    assert 5 < len(numbers) < 15
    assert numbers[-1] == 999


def test_a_follower_leaves_a_line_that_is_not_complete_yet(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n{"b"')
    news = LinesSince(path, 0)
    assert list(news) == [{"a": 1}]
    with path.open("ab") as file:
        file.write(b":2}\n")
    assert list(LinesSince(path, news.end)) == [{"b": 2}]
    assert list(LinesSince(tmp_path / "none", 0)) == []


def test_a_file_that_cannot_be_opened_raises(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        JsonLines(tmp_path / "file" / "a.jsonl").append({})
    assert os.listdir(tmp_path) == ["file"]
