"""An index that a table does not have is reported late by a GPU; still its samples are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.torchrun import ROOT


def test_the_samples_with_the_wrong_token_are_named(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "gpu" / "late.py"), str(target), str(tmp_path / "run")],
        check=True,
        timeout=50,
        capture_output=True,
        cwd=ROOT,
    )
    found = json.loads(target.read_text())
    assert "device-side assert" in found["error"]
    notes = "\n".join(found["notes"])
    print(notes)
    assert "model.embed_tokens has rows 0 to 99, and its input asks for row 300" in notes
    assert "12, 13, 14, 15." in notes
