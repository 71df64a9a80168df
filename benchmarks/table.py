"""The figures that users wait for, each beside its peer, and beside an earlier version of raytrainer, in one table.

    python benchmarks/table.py                          all of them; about three quarters of an hour
    python benchmarks/table.py recovery loop            some
    python benchmarks/table.py --before v0.2 --rounds 3

Each round runs the script of a figure once, with a peer of its own; with ``--before`` it runs it a second time on a
checkout of that revision, so that both versions meet the same state of the machine. The table has the medians of all
rounds; a ratio is the median of the rounds' own ratios, because one process is faster than the next; where a
peer ran in the same process, it is the ratio to that. Nothing else
should run meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from scripts.figures import VARIABLE, noted

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Figure:
    """One row.

    Attributes:
        name: By which a script notes it.
        says: What a person reads.
        peer: Whose readings it is compared with.
        wanted: The ratio to the peer that is aimed at; None if the time itself is.
    """

    name: str
    says: str
    peer: str
    wanted: float | None


@dataclass(frozen=True)
class Benchmark:
    """A script, and the figures that it notes."""

    script: str
    figures: Sequence[Figure]
    flags: Sequence[str] = ()


BENCHMARKS = {
    "start": Benchmark(
        "time_to_first_step.py",
        [
            Figure("first step", "`python script.py` until the first step", "by hand", 0.45),
            Figure("evaluation", "`evaluate()` after `train()`", "by hand", None),
        ],
    ),
    "recovery": Benchmark(
        "recovery.py",
        [Figure("recovery", "SIGKILL of a worker until the next new step", "by hand", 0.40)],
    ),
    "loop": Benchmark(
        "loop_overhead.py",
        [
            Figure("step", "a step of 10 ms", "bare loop", 1.03),
            Figure("logged step", "a step of 10 ms, logged", "bare loop", 1.06),
        ],
    ),
    "save": Benchmark(
        "save.py",
        [Figure("save on this disk", "what a save of 1.6 GB takes from training", "transformers", 0.15)],
        ["--storage", "disk"],
    ),
    "slow-save": Benchmark(
        "save.py",
        [Figure("save at 100 MB/s", "the same, storage of 100 MB/s", "transformers", 0.05)],
        ["--storage", "slow", "--saves", "3"],
    ),
}


@dataclass
class Readings:
    """What was measured of one version."""

    ours: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    peers: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """By figure: of each round [s]."""
    ratios: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Of each round, ours to its own peer's."""


def measure(benchmark: Benchmark, tree: Path, readings: Readings) -> None:
    """Run a script once, on the raytrainer of a tree; say so if it fails, and leave its figures out."""
    with tempfile.TemporaryDirectory() as directory:
        noted_in = Path(directory) / "readings.jsonl"
        path = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / benchmark.script), "--rounds", "1", *benchmark.flags],
            env={**os.environ, VARIABLE: str(noted_in), "PYTHONPATH": path},
            cwd=tree,  # Ray's workers look for modules there first
            check=False,
        )
        if done.returncode:
            print(f"{benchmark.script} ended with {done.returncode} on {tree}.", flush=True)
        found = list(noted(noted_in))
    for figure in benchmark.figures:
        ours, peer = (
            [one["value"] for one in found if (one["figure"], one["side"]) == (figure.name, side)]
            for side in ("raytrainer", figure.peer)
        )
        readings.ours.setdefault(figure.name, []).extend(ours)
        readings.peers.setdefault(figure.name, []).extend(peer)
        if ours and peer:
            beside = [
                one.get("beside")
                for one in found
                if one["figure"] == figure.name and one["side"] == "raytrainer"
            ]
            is_paired = None not in beside
            ratio = statistics.median(ours) / statistics.median(beside if is_paired else peer)
            readings.ratios.setdefault(figure.name, []).append(ratio)


def rows(
    benchmarks: Sequence[Benchmark], now: Readings, before: Readings | None = None
) -> Iterator[list[str]]:
    """The lines of the table."""
    versions = {"now": now} if before is None else {"before": before, "now": now}
    yield ["what you wait for", *versions, "peer", *(f"{name} / peer" for name in versions), "wanted"]
    for figure in (figure for benchmark in benchmarks for figure in benchmark.figures):
        peers = [value for one in versions.values() for value in one.peers.get(figure.name, [])]
        digits = 3 if figure.peer == "bare loop" else 2
        yield [
            figure.says,
            *(_time(_median(one.ours.get(figure.name))) for one in versions.values()),
            f"{figure.peer} {_time(_median(peers))}",
            *(_ratio(_median(one.ratios.get(figure.name)), digits) for one in versions.values()),
            _ratio(figure.wanted, 2),
        ]


def _median(values: Sequence[float] | None) -> float | None:
    return statistics.median(values) if values else None


def _ratio(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines in columns, as Markdown."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for number, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


@contextlib.contextmanager
def checkout(revision: str | None) -> Iterator[Path | None]:
    """A tree of another revision of this repository.

    Raises:
        SystemExit: If git does not know it.
    """
    if revision is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        done = subprocess.run(
            [*git, "add", "--detach", str(tree), revision], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"No checkout of {revision!r} could be made: {done.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", metavar="REVISION", help="of git, to be measured beside this version")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    chosen = [BENCHMARKS[name] for name in options.names or BENCHMARKS]
    now, before = Readings(), Readings()
    began_s = time.time()
    with checkout(options.before) as earlier:
        for benchmark in chosen:
            for number in range(options.rounds):
                print(
                    f"\n== {benchmark.script} {' '.join(benchmark.flags)} ({number + 1} of {options.rounds})",
                    flush=True,
                )
                measure(benchmark, ROOT, now)
                if earlier is not None:
                    print(f"-- the same with {options.before}", flush=True)
                    measure(benchmark, earlier, before)
    print(
        f"\nMedians of {options.rounds} rounds on {psutil.cpu_count()} CPUs"
        f" in {(time.time() - began_s) / 60:.0f} minutes:\n"
    )
    print_table(list(rows(chosen, now, before if options.before else None)))


if __name__ == "__main__":
    main()
