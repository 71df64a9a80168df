"""How large the page of a long run is, and how soon a browser shows its curves.

    python benchmarks/report_page.py
    python benchmarks/report_page.py --steps 10 --browser /usr/bin/google-chrome --keep DIRECTORY

The run has a log at every step, two deaths, a resize, evaluations and saves; its losses and norms are noise around a
curve, so that thinning has something to keep. Time begins when the browser is told to open the page and ends with the
frame after its last curve. The browser itself runs already; a fresh tab is opened for each reading.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_S = 60.0
TELLS = """<script>
(function look() {
  if (!document.documentElement.dataset.drawn) return setTimeout(look, 5);
  requestAnimationFrame(() => requestAnimationFrame(() => { document.title = "drawn " + performance.now(); }));
})();
</script>"""


def write_run(directory: Path, num_steps: int) -> None:
    """Write the record of a run that died twice and went on with fewer workers."""
    from raytrainer.telemetry.events import Logged
    from tests.report.runs import WrittenRun

    noise = random.Random(0)
    run = WrittenRun(directory, num_steps)

    def logs(step: int) -> dict[str, object]:
        return {
            "loss": 4 / (1 + step) ** 0.2 * noise.lognormvariate(0, 0.2),
            "grad_norm": noise.lognormvariate(0, 0.5),
            "learning_rate": 1e-3 * (1 - step / num_steps),
            "epoch": step / num_steps * 3,
        }

    def train(begin: int, end: int) -> None:
        every = max(num_steps // 100, 1)
        for first in range(begin, end, every):
            last = min(first + every, end)
            run.steps(first, last, logs=logs)
            found: dict[str, object] = {"eval_loss": 4 / (1 + last) ** 0.2, "eval_accuracy": last / num_steps}
            run.rank.handle(Logged(step=last, max_steps=num_steps, logs=found))
            if last % (every * 10) == 0 and not (directory / f"checkpoint-{last}").exists():
                run.save(last, waited_s=0.1)

    run.start(0)
    train(0, num_steps * 4 // 10)
    run.restart("the worker of rank 2 died: SIGKILL.", num_steps * 3 // 10)
    train(num_steps * 3 // 10, num_steps * 6 // 10)
    run.restart("a node was lost.", num_steps * 5 // 10, workers=2)
    run.resize("resized 4 -> 2 workers")
    train(num_steps * 5 // 10, num_steps)
    run.end()


@contextlib.contextmanager
def browser(path: str, profile: Path) -> Iterator[str]:
    """Run a browser without a window.

    Yields:
        Where it is told what to do.
    """
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000"]
    flags += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen([path, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = profile / "DevToolsActivePort"
    try:
        began = time.monotonic()
        while not port.exists() or not port.read_text().strip():
            if process.poll() is not None or time.monotonic() - began > WAIT_S:
                raise SystemExit(f"{path} did not start. Name another browser with --browser.")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port.read_text().split()[0]}/json"
    finally:
        process.terminate()
        process.wait(timeout=WAIT_S)


def opening(control: str, page: Path) -> float:
    """Open a page in a new tab.

    Returns:
        From the navigation to the frame after its last curve [s].
    """
    new = urllib.request.Request(f"{control}/new?{page.as_uri()}", method="PUT")
    with urllib.request.urlopen(new, timeout=WAIT_S) as answer:
        tab = json.load(answer)["id"]
    began = time.monotonic()
    while time.monotonic() - began < WAIT_S:
        with urllib.request.urlopen(f"{control}/list", timeout=WAIT_S) as answer:
            titles = {one["id"]: str(one["title"]) for one in json.load(answer)}
        if titles.get(tab, "").startswith("drawn "):
            urllib.request.urlopen(f"{control}/close/{tab}", timeout=WAIT_S).close()
            return float(titles[tab].split()[1]) / 1000
        time.sleep(0.05)
    raise SystemExit(f"{page} was not drawn within {WAIT_S:.0f} s.")


def main() -> None:
    """Write the run and its page, open it, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    parser.add_argument(
        "--keep", type=Path, help="leave the run, its page and its pictures in this directory"
    )
    options = parser.parse_args()
    from raytrainer.report.page import write_report

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        directory = options.keep or Path(scratch) / "run"
        directory.mkdir(parents=True, exist_ok=True)
        write_run(directory, options.steps)
        page = directory / "report.html"
        began = time.perf_counter()
        write_report(
            [str(directory)], str(page), pictures=str(directory / "report") if options.keep else None
        )
        print(f"{options.steps:,} logged steps: record {size_of(directory / 'metrics.jsonl'):.2f} MB")
        print(f"page written in {time.perf_counter() - began:.2f} s, {size_of(page):.2f} MB")
        if options.browser is None:
            print(
                "There is no Chromium here; name a browser with --browser to measure how soon it shows the page."
            )
            return
        telling = Path(scratch) / "telling.html"
        telling.write_text(page.read_text(encoding="utf-8") + TELLS, encoding="utf-8")
        with browser(options.browser, Path(scratch) / "profile") as control:
            times = [opening(control, telling) for _ in range(options.rounds)]
        print("curves drawn after [s]:", *(f"{one:.2f}" for one in times))
        print(f"median {statistics.median(times):.2f} s, at most {max(times):.2f} s")


def size_of(path: Path) -> float:
    """The size of a file [MB]."""
    return path.stat().st_size / 1e6


if __name__ == "__main__":
    main()
