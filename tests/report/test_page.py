"""The page of a run: one complete file, small also for 100,000 steps, which a browser draws."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from raytrainer.errors import ConfigurationError
from raytrainer.report import vega_lite
from raytrainer.report.page import write_report
from tests.report.runs import SPIKE, WrittenRun, two_deaths

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("long")
    two_deaths(directory, 100_000)
    return directory


@pytest.fixture(scope="module")
def long_page(long_run: Path) -> Path:
    write_report([str(long_run)], str(long_run / "report.html"))
    return long_run / "report.html"


class Loaded(HTMLParser):
    """What a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in ("src", "href") and value != "data:,"]


def without_library(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace(vega_lite.javascript(), "")


@pytest.mark.slow
def test_a_page_of_100_000_steps_is_under_3_mb_and_keeps_the_spike(long_page: Path):
    assert long_page.stat().st_size < 3_000_000
    text = without_library(long_page)
    losses = re.search(r'"n":"loss","s":\[([^\]]*)\],"t":\[[^\]]*\],"v":\[([^\]]*)\]', text)
    assert losses is not None
    steps, values = losses[1].split(","), losses[2].split(",")
    assert values[steps.index("80000")] == str(SPIKE)
    assert len(steps) < 5_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_chromium_draws_every_chart_of_100_000_steps(long_page: Path):
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=10000",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, long_page.as_uri()], capture_output=True, text=True, timeout=55, check=True
    )
    charts = done.stdout.count("<figure")
    assert charts >= 6
    assert done.stdout.count('<svg xmlns="http://www.w3.org/2000/svg"') == charts
    assert "could not be drawn" not in done.stdout.replace(long_page.read_text(), "").split("<script>")[0]
    drawn = re.search(r'<html[^>]*data-drawn="(\d+)"', done.stdout)
    assert drawn is not None


def test_a_page_loads_nothing(tmp_path: Path):
    two_deaths(tmp_path, 10)
    write_report([str(tmp_path)], str(tmp_path / "report.html"))
    parser = Loaded()
    parser.feed(without_library(tmp_path / "report.html"))
    assert parser.found == []


def test_a_page_tells_of_deaths_and_shows_what_users_wrote_as_text(tmp_path: Path):
    two_deaths(tmp_path, 10)
    write_report([str(tmp_path)], str(tmp_path / "report.html"))
    text = without_library(tmp_path / "report.html")
    assert "The worker of rank 2 died &lt;/script&gt; (SIGKILL)." in text
    assert "4 workers &lt;b&gt;on&lt;/b&gt; 2 nodes" in text
    assert text.count("</script>") == 2
    assert "A node was lost." in text
    assert "4 → 2" in text


def test_several_runs_stand_side_by_side_with_what_differs(tmp_path: Path):
    for name, rate in (("a", 1e-3), ("b", 2e-3)):
        run = WrittenRun(tmp_path / name, 10)
        run.start(0, learning_rate=rate, seed=1)
        run.steps(0, 10)
        run.end()
    write_report([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "both.html"))
    text = without_library(tmp_path / "both.html")
    assert "Side by side" in text
    differing = text[text.index("What differs") : text.index("all 2 arguments")]
    assert "learning_rate" in differing
    assert "seed" not in differing


def test_pictures_are_written_of_each_curve(tmp_path: Path):
    two_deaths(tmp_path, 10)
    written = write_report([str(tmp_path)], str(tmp_path / "report.html"), pictures=str(tmp_path / "report"))
    names = {Path(one).name for one in written}
    assert names >= {
        "report.html",
        "loss.png",
        "learning_rate.png",
        "grad_norm.png",
        "attempts.png",
        "workers.png",
    }
    assert all(Path(one).read_bytes().startswith(b"\x89PNG") for one in written[1:])


def test_a_directory_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="holds no run"):
        write_report([str(tmp_path)], str(tmp_path / "report.html"))
    with pytest.raises(ConfigurationError, match="not a directory"):
        write_report([str(tmp_path / "none")], str(tmp_path / "report.html"))


def test_without_the_library_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    two_deaths(tmp_path, 10)
    monkeypatch.setattr(vega_lite, "can_draw", lambda: False)
    with pytest.raises(ConfigurationError, match=r"pip install 'raytrainer\[report\]'"):
        write_report([str(tmp_path)], str(tmp_path / "report.html"))


def test_a_run_in_a_bucket_is_read(memory_bucket, tmp_path: Path):
    two_deaths(tmp_path, 10)
    for name in ("metrics.jsonl", "events.jsonl"):
        memory_bucket.write(name, (tmp_path / name).read_bytes())
    write_report([memory_bucket.uri], str(tmp_path / "report.html"))
    assert "A node was lost." in without_library(tmp_path / "report.html")
