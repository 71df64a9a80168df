"""Writes the page of runs, an HTML file that needs no server and no network, and pictures of its curves."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raytrainer.report.charts import (
    Chart,
    Mark,
    charts_of,
    is_logarithmic,
    label_of,
    marks_of,
    rows_of,
    spec_of,
    time_unit,
    timeline_spec,
    words_of,
)
from raytrainer.report.directory import run_directory
from raytrainer.report.html import attempts_data, page
from raytrainer.report.record import Record, read_record
from raytrainer.report.sweep import Sweep, objective_spec, parallel_spec, read_sweep
from raytrainer.report.vega_lite import can_draw, javascript, to_png
from raytrainer.storage.locations import is_uri, split
from raytrainer.telemetry.run_files import PAGE_NAME

__all__ = ["PAGE_NAME", "can_draw", "write_pictures", "write_report"]

PICTURE_WIDTH = 720


def write_report(locations: Sequence[str], target: str, *, pictures: str | None = None) -> list[str]:
    """Write the page of runs, and with ``pictures`` a PNG of each of its curves.

    Args:
        locations: Of the runs: directories or URIs.
        target: Where the page goes: a path or a URI.
        pictures: A folder for the PNGs; none by default.

    Returns:
        What was written.

    Raises:
        ConfigurationError: If a location holds no run, or the library that draws is not installed.
        OSError: If it cannot be written.
    """
    script = javascript()
    records, sweeps = read_all(locations)
    drawn = Drawn(records)
    text = page(records, sweeps, specs=drawn.specs(sweeps), data=drawn.data(), script=script)
    _write(target, text.encode())
    written = [target]
    if pictures is not None:
        written += write_pictures(drawn, sweeps, Path(pictures))
    return written


def read_all(locations: Sequence[str]) -> tuple[list[Record], list[Sweep]]:
    """Read runs and sweeps.

    Raises:
        ConfigurationError: If a location holds neither.
    """
    records: list[Record] = []
    sweeps: list[Sweep] = []
    for location in locations:
        with run_directory(location) as directory:
            sweep = read_sweep(directory, location=location)
            if sweep is not None:
                sweeps.append(sweep)
            record = read_record(directory, location=location)
            if record.series or record.attempts or record.saves or sweep is None:
                records.append(record)
    tell_apart(records)
    return records, sweeps


def tell_apart(records: Sequence[Record]) -> None:
    """Name runs whose directories are called the same by so much of their paths that each has a name of its own."""
    paths = [record.location.rstrip("/").split("/") for record in records]
    for length in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(set(map(tuple, paths))):
            break
    else:
        return
    for record, name in zip(records, names, strict=True):
        record.name = name


class Drawn:
    """The curves of runs, ready to be drawn.

    Args:
        records: The runs.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.runs = [label_of(records, index) for index in range(len(records))]
        self.charts: list[Chart] = charts_of(records) if records else []
        self.marks: list[Mark] = marks_of(records)
        self.unit = time_unit(records) if records else ("s", 1.0)

    def data(self) -> dict[str, Any]:
        """What the script of a page draws."""
        return {
            "unit": self.unit,
            "points": {chart.key: chart.points for chart in self.charts},
            "marks": [
                {"kind": mark.kind, "s": mark.step, "t": mark.seconds, "text": f"{mark.run}: {mark.text}"}
                for mark in self.marks
            ],
            "attempts": attempts_data(self.records, self.runs),
        }

    def specs(self, sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
        """The charts of a page: key, title, and how they are drawn over steps and over time."""
        specs: list[dict[str, Any]] = []
        for number, sweep in enumerate(sweeps):
            parallel = parallel_spec(sweep)
            if parallel is not None:
                title = f"{sweep.name}: hyperparameters and objective"
                specs.append(
                    {
                        "key": f"parallel{number}",
                        "title": title,
                        "wide": True,
                        "step": parallel,
                        "time": parallel,
                    }
                )
            specs.append(
                {
                    "key": f"objective{number}",
                    "title": f"{sweep.name}: objective of each trial",
                    "wide": True,
                    "step": objective_spec(sweep, by_time=False),
                    "time": objective_spec(sweep, by_time=True),
                }
            )
        attempts = attempts_data(self.records, self.runs)
        if attempts:
            both = [
                timeline_spec(self.unit, by_time=by_time, endings=[row["ending"] for row in attempts])
                for by_time in (False, True)
            ]
            specs.append(
                {"key": "attempts", "title": "Attempts", "wide": True, "step": both[0], "time": both[1]}
            )
        for chart in self.charts:
            both = [
                spec_of(chart, by_time=by_time, unit=self.unit, runs=self.runs) for by_time in (False, True)
            ]
            title = f"{chart.title} [{chart.unit}]" if chart.unit else chart.title
            title += ", logarithmic" if is_logarithmic(chart) else ""
            specs.append({"key": chart.key, "title": title, "step": both[0], "time": both[1]})
        return specs


def write_pictures(drawn: Drawn, sweeps: Sequence[Sweep], folder: Path) -> list[str]:
    """Write a PNG of each curve, over steps.

    Args:
        drawn: The curves.
        sweeps: Sweeps that are drawn too.
        folder: Where they go; made if missing.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marks = [{"kind": mark.kind, "x": mark.step, "text": mark.text} for mark in drawn.marks]
    points = {chart.key: rows_of(chart, by_time=False, unit=drawn.unit) for chart in drawn.charts}
    attempts = [{**row, "x": row["s"], "x2": row["s2"]} for row in attempts_data(drawn.records, drawn.runs)]
    written: list[str] = []
    for one in drawn.specs(sweeps):
        datasets: dict[str, Any] = {
            "points": points.get(one["key"], []),
            "marks": marks,
            "attempts": attempts,
        }
        title = {"text": one["title"], "anchor": "start"}
        if "layer" in one["step"] and marks:
            title |= {"subtitle": words_of(mark.kind for mark in drawn.marks), "subtitleColor": "#555"}
        spec = {**one["step"], "width": PICTURE_WIDTH, "title": title, "datasets": datasets}
        path = folder / f"{_file_name(one['key'])}.png"
        path.write_bytes(to_png(spec))
        written.append(str(path))
    return written


def _file_name(key: str) -> str:
    return "".join(char if char.isalnum() or char in "_-." else "_" for char in key)


def _write(target: str, content: bytes) -> None:
    """Write a page completely or not at all."""
    if is_uri(target):
        from raytrainer.storage.store import ObjectStore

        parent, name = split(target)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_bytes(content)
            ObjectStore(parent).put(path, name)
        return
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch_path = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch_path.write_bytes(content)
        os.replace(scratch_path, path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch_path.unlink()
        raise
