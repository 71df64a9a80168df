"""The short examples run in this process for a few steps, with their default data."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).parents[2]
CATALOGUES = Path("/usr/share/locale/de/LC_MESSAGES")

SCRIPTS = [
    pytest.param("image_classification.py", [], r"accuracy 0\.\d+ on 360 held-out images", id="images"),
    pytest.param("custom_loss.py", [], r"accuracy 0\.\d+; recall of the rare class", id="loss_of_a_subclass"),
    pytest.param(
        "custom_loss.py", ["--as_function"], r"accuracy 0\.\d+; recall of the rare class", id="loss_function"
    ),
    pytest.param("early_stopping.py", [], "stopped after 3 of 3 steps", id="early_stopping"),
    pytest.param(
        "translation.py",
        ["--num_pairs", "700", "--batch_size", "4"],
        r"chrF \d+\.\d on 100 held-out messages",
        id="translation",
        marks=pytest.mark.skipif(not CATALOGUES.is_dir(), reason="no German messages on this machine"),
    ),
]


def run(script: str, directory: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    command = [script, "--num_workers", "0", "--max_steps", "3", "--output_dir", str(directory), *options]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")


@pytest.mark.parametrize(("script", "options", "says"), SCRIPTS)
def test_example_runs_and_says_what_it_found(
    script: str, options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    pytest.importorskip("sklearn")
    run(script, tmp_path, monkeypatch, *options)
    output = capsys.readouterr().out
    assert re.search(says, output), output[-2000:]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model with its image processor, and a folder of images per class, in the layout of the hub."""
    image = pytest.importorskip("PIL.Image")
    directory = tmp_path_factory.mktemp("hub")
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    transformers.ViTForImageClassification(config).save_pretrained(directory / "model")
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size).save_pretrained(directory / "model")
    for name, count in (("cats", 12), ("dogs", 20), ("birds", 8)):
        (directory / "data" / name).mkdir(parents=True)
        for number in range(count):
            shade = number * 9 % 255
            image.new("L", (20, 20), shade).save(directory / "data" / name / f"{number}.png")
    return directory / "model", directory / "data"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("image_classification.py", r"accuracy \d\.\d+ on 8 held-out images"),
        ("custom_loss.py", r"accuracy \d\.\d+; recall of the rare class"),
        ("early_stopping.py", "stopped after 3 of 3 steps"),
    ],
)
def test_example_takes_a_model_and_pictures_by_name(
    script: str,
    says: str,
    pictures: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    model, data = map(str, pictures)
    run(script, tmp_path, monkeypatch, "--model", model, "--data", data)
    output = capsys.readouterr().out
    assert re.search(says, output), output[-2000:]
