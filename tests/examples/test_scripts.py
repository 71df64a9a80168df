"""The short examples run in this process, for a few steps, with the data that they take by default."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CATALOGUES = Path("/usr/share/locale/de/LC_MESSAGES")

SCRIPTS = [
    pytest.param("image_classification.py", [], r"accuracy 0\.\d+ on 360 images", id="images"),
    pytest.param("custom_loss.py", [], r"accuracy 0\.\d+; nines found", id="loss_of_a_subclass"),
    pytest.param("custom_loss.py", ["--as_function"], r"accuracy 0\.\d+; nines found", id="loss_function"),
    pytest.param("early_stopping.py", [], "stopped after 3 of 3 steps", id="early_stopping"),
    pytest.param(
        "translation.py",
        ["--num_pairs", "700", "--batch_size", "4"],
        r"chrF \d+\.\d on 100 messages",
        id="translation",
        marks=pytest.mark.skipif(not CATALOGUES.is_dir(), reason="no German messages on this machine"),
    ),
]


@pytest.mark.parametrize(("script", "options", "says"), SCRIPTS)
def test_example_runs_and_says_what_it_found(
    script: str, options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    pytest.importorskip("sklearn")
    command = [script, "--num_workers", "0", "--max_steps", "3", "--output_dir", str(tmp_path), *options]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    output = capsys.readouterr().out
    assert re.search(says, output), output[-2000:]
