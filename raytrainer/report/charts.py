"""Which curves the page of one or several runs has, and how Vega-Lite draws them.

Every curve has two axes to choose from: optimizer steps, of which a curve has one value each, and wall time, which
shows steps that a death took back too, in gray. Deaths, resizes and values that are no numbers are marked on both.

Colors are those of Okabe and Ito, which people with color blindness tell apart; series differ in their dashes as well,
and marks in their dashes, so that a page printed in gray says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raytrainer.report.record import CAUSES, Record, Sample
from raytrainer.report.thinning import split_finite, thinned

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LOST = "#9a9a9a"
MARKS = {
    "restart": ("#D55E00", [5, 3]),
    "failed": ("#D55E00", [1, 0]),
    "interrupted": ("#6b6b6b", [1, 0]),
    "move": ("#E69F00", [2, 2]),
    "resize": ("#0072B2", [2, 2]),
    "not a number": ("#CC79A7", [1, 2]),
}
"""Kind -> color and dashes of its line."""
ENDING_COLORS = {
    "finished": "#009E73",
    "died or failed": "#D55E00",
    "moved": "#E69F00",
    "interrupted": "#6b6b6b",
    "no end recorded": "#56B4E9",
}
"""How an attempt ended -> the color of its bar."""
MARK_WORDS = {
    "restart": ("dashed orange", "a death or failure after which the workers started again"),
    "failed": ("orange", "the failure that ended the run"),
    "interrupted": ("gray", "an interrupt"),
    "move": ("dotted yellow", "workers that moved"),
    "resize": ("dotted blue", "another number of workers"),
    "not a number": ("dotted pink", "a value that is no number"),
}
"""Kind -> how its line looks, and what it means."""
POINTS_OF_PAGE = 24_000
"""About so many points are on a page; the curves share them."""
MOST_OF_CURVE = 2_000
FEW = 40
"""Curves of fewer points show each point."""
DENSE = 1000
"""From how many points a curve of noise is a band, in front of which other curves need contrast."""
MAX_OTHERS = 16
"""Curves of what a user logged beside the usual."""
MAX_BAD = 100
SPIKE = 20.0
"""A greatest value so many times those of 99 % of a curve would hide them."""
HEIGHT = 190
NUMBER = (
    "abs(datum.value) >= 10000 ? format(datum.value, '~s') : "
    "datum.value != 0 && abs(datum.value) < 0.001 ? format(datum.value, '~e') : format(datum.value, '~r')"
)
"""How an axis writes a number: 25k, 60, 0.5, 3e-4."""


@dataclass(kw_only=True)
class Chart:
    """Curves that share their axes."""

    key: str
    title: str
    unit: str = ""
    names: list[str] = field(default_factory=list[str])
    """Of the series in it."""
    scale: float = 1.0
    """Values are divided by it."""
    is_step: bool = False
    """Values hold until the next one."""
    from_zero: bool = False
    points: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Columns of each curve: run, name, steps, seconds, values, whether lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A line across the curves."""

    run: str
    kind: str
    step: int
    seconds: float
    text: str


def charts_of(records: Sequence[Record]) -> list[Chart]:
    """Choose the curves that runs have, with their points.

    Args:
        records: The runs, which are drawn together.
    """
    names = list(dict.fromkeys(name for record in records for name in record.series))
    charts = [chart for chart in _layout(names) if chart.names or chart.key == "workers"]
    num_curves = sum(len(chart.names) for chart in charts) * max(1, len(records))
    limit = max(200, min(MOST_OF_CURVE, POINTS_OF_PAGE // max(1, num_curves)))
    for chart in charts:
        for index, record in enumerate(records):
            _fill(chart, record, label_of(records, index), limit)
    return [chart for chart in charts if chart.points]


def label_of(records: Sequence[Record], index: int) -> str:
    """The name of a run among others, which may be called the same."""
    name = records[index].name
    twice = sum(record.name == name for record in records) > 1
    return f"{name} ({index + 1})" if twice else name


def marks_of(records: Sequence[Record]) -> list[Mark]:
    """What happened to runs, as lines across their curves."""
    marks: list[Mark] = []
    for index, record in enumerate(records):
        label, began = label_of(records, index), record.began or 0.0
        marks += [
            Mark(run=label, kind=one.kind, step=one.step, seconds=one.time - began, text=one.text)
            for one in record.happenings
            if one.kind in CAUSES
        ]
        bad = [sample for samples in record.series.values() for sample in split_finite(samples)[1]]
        seen = {sample.step: sample for sample in bad}
        marks += [
            Mark(
                run=label,
                kind="not a number",
                step=sample.step,
                seconds=(sample.time or began) - began,
                text=f"a value of step {sample.step} is {sample.value}",
            )
            for sample in list(seen.values())[:MAX_BAD]
        ]
    return marks


def words_of(kinds: Iterable[str]) -> str:
    """What the lines across a picture mean, for those that it has."""
    there = set(kinds)
    return "; ".join(f"{line}, {what}" for kind, (line, what) in MARK_WORDS.items() if kind in there)


def time_unit(records: Sequence[Record]) -> tuple[str, float]:
    """The unit in which wall time is drawn, and its length [s]."""
    longest = max((record.heard or 0.0) - (record.began or 0.0) for record in records)
    if longest < 300:
        return "s", 1.0
    return ("min", 60.0) if longest < 3 * 3600 else ("h", 3600.0)


def spec_of(chart: Chart, *, by_time: bool, unit: tuple[str, float], runs: Sequence[str]) -> dict[str, Any]:
    """The specification of a chart, whose data are called ``points`` and ``marks``.

    Args:
        chart: With its points.
        by_time: Draw over wall time.
        unit: Of the time.
        runs: All runs of the page, whose colors are the same in all charts.
    """
    x_title = f"wall time since the start [{unit[0]}]" if by_time else "optimizer step"
    x = {
        "field": "x",
        "type": "quantitative",
        "title": x_title,
        "axis": {"tickCount": 6, "labelOverlap": True, "labelExpr": NUMBER},
        "scale": {"nice": False, "padding": 4},
    }
    y: dict[str, Any] = {
        "field": "y",
        "type": "quantitative",
        "title": None,
        "axis": {"tickCount": 5, "labelExpr": NUMBER},
        "scale": _scale(chart),
    }
    by_run = len(runs) > 1
    color: dict[str, Any] = {
        "field": "run" if by_run else "name",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(runs) if by_run else chart.names, "range": list(COLORS)},
        "legend": {"orient": "top", "symbolType": "stroke"} if by_run or len(chart.names) > 1 else None,
    }
    encoding: dict[str, Any] = {
        "x": x,
        "y": y,
        "color": color,
        "detail": [{"field": name} for name in ("run", "name", "part")],
    }
    if len(chart.names) > 1:
        dash = {"field": "name", "type": "nominal", "title": None, "scale": {"domain": chart.names}}
        encoding["strokeDash"] = dash | {"legend": {"orient": "top"} if by_run else None}
        encoding |= _contrast(chart)
    # Not clipped: a curve along the edge would be half as thick.
    mark: dict[str, Any] = {"type": "line", "strokeWidth": 1.5}
    if chart.is_step:
        mark["interpolate"] = "step-after"
        y["axis"] = {"tickCount": 5, "tickMinStep": 1, "labelExpr": NUMBER}
    most = max(len(curve["s"]) for curve in chart.points)
    if most <= FEW and not chart.is_step:
        mark["point"] = {"size": 22, "filled": True}
    layers: list[dict[str, Any]] = [
        {
            "data": {"name": "points"},
            "transform": [{"filter": "!datum.lost"}],
            "mark": mark,
            "encoding": encoding,
        }
    ]
    if by_time and any(any(curve["l"]) for curve in chart.points):
        lost = {
            "data": {"name": "points"},
            "transform": [{"filter": "datum.lost"}],
            "mark": {"type": "point", "size": 6, "filled": True, "color": LOST, "opacity": 0.8},
            "encoding": {"x": x, "y": y},
        }
        layers.insert(0, lost)
    layers.append(_rules(x))
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": HEIGHT,
        "layer": layers,
        "resolve": {"scale": {"color": "independent", "strokeDash": "independent"}},
        "config": _CONFIG,
    }


def _contrast(chart: Chart) -> dict[str, Any]:
    """Curves of few points are thick where another one of the chart may be a band; the band is paler."""
    names = {curve["n"] for curve in chart.points}
    most = {name: max(len(one["s"]) for one in chart.points if one["n"] == name) for name in names}
    sparse = [name for name, count in sorted(most.items()) if count <= DENSE]
    if not sparse or len(sparse) == len(most):
        return {}
    is_sparse = {"field": "name", "oneOf": sparse}
    return {
        "strokeWidth": {"condition": {"test": is_sparse, "value": 2.5}, "value": 0.8},
        "strokeOpacity": {"condition": {"test": is_sparse, "value": 1}, "value": 0.5},
    }


def _scale(chart: Chart) -> dict[str, Any]:
    """Linear, unless a few values are so large that the others would lie on the axis: then logarithmic."""
    values = sorted(value for curve in chart.points for value in curve["v"])
    most = values[int(0.99 * (len(values) - 1))] if values else 0.0
    if len(values) >= FEW and values[0] > 0 and values[-1] > SPIKE * most:
        return {"type": "log", "nice": True}
    return {"zero": chart.from_zero, "nice": True}


def is_logarithmic(chart: Chart) -> bool:
    """Whether a chart has a logarithmic scale, which its title says."""
    return "type" in _scale(chart)


def timeline_spec(unit: tuple[str, float], *, by_time: bool, endings: Sequence[str]) -> dict[str, Any]:
    """The specification of the attempts as bars, whose data are called ``attempts``.

    Args:
        unit: Of the time.
        by_time: Draw over wall time.
        endings: Of the bars.
    """
    title = f"wall time since the start [{unit[0]}]" if by_time else "optimizer step"
    x: dict[str, Any] = {
        "field": "x",
        "type": "quantitative",
        "title": title,
        "axis": {"tickCount": 6, "labelExpr": NUMBER},
    }
    x["scale"] = {"nice": False, "padding": 4}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": {"step": 22} if len(endings) < 20 else 420,
        "data": {"name": "attempts"},
        "mark": {"type": "bar", "height": {"band": 0.6}, "clip": True},
        "encoding": {
            "x": x,
            "x2": {"field": "x2"},
            "y": {
                "field": "label",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {"labelLimit": 150},
            },
            "color": {
                "field": "ending",
                "type": "nominal",
                "title": None,
                "legend": {
                    "orient": "top",
                    "symbolType": "square",
                    "columns": 3,
                    "values": [ending for ending in ENDING_COLORS if ending in endings],
                },
                "scale": {"domain": list(ENDING_COLORS), "range": list(ENDING_COLORS.values())},
            },
            "tooltip": [{"field": "label", "title": "attempt"}, {"field": "text", "title": "end"}],
        },
        "config": _CONFIG,
    }


def _rules(x: dict[str, Any]) -> dict[str, Any]:
    kinds = list(MARKS)
    return {
        "data": {"name": "marks"},
        "mark": {"type": "rule", "strokeWidth": 1.4, "clip": True},
        "encoding": {
            "x": x,
            "color": {
                "field": "kind",
                "type": "nominal",
                "legend": None,
                "scale": {"domain": kinds, "range": [MARKS[kind][0] for kind in kinds]},
            },
            "strokeDash": {
                "field": "kind",
                "type": "nominal",
                "legend": None,
                "scale": {"domain": kinds, "range": [MARKS[kind][1] for kind in kinds]},
            },
            "tooltip": [{"field": "kind"}, {"field": "text"}],
        },
    }


_CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titleColor": "#555",
        "labelColor": "#444",
        "gridColor": "#e8e8e8",
        "domainColor": "#999",
        "tickColor": "#999",
    },
    "axisX": {"grid": False},
    "legend": {"labelFontSize": 11, "symbolStrokeWidth": 2, "labelLimit": 220},
    "background": "white",
}


def _layout(names: Sequence[str]) -> list[Chart]:
    """Which series are drawn in which chart."""
    left = list(names)

    def take(*wanted: str) -> list[str]:
        found = [name for name in left if name in wanted]
        for name in found:
            left.remove(name)
        return found

    losses = [name for name in left if name == "loss" or (name.startswith("eval") and name.endswith("loss"))]
    charts = [
        Chart(key="loss", title="Loss", names=take(*losses)),
        *(
            Chart(key=name, title=name, names=take(name))
            for name in [name for name in left if name.startswith("eval_")]
        ),
        Chart(key="learning_rate", title="Learning rate", names=take("learning_rate"), from_zero=True),
        Chart(
            key="grad_norm", title="Gradient norm, before clipping", names=take("grad_norm"), from_zero=True
        ),
        Chart(
            key="samples_per_s",
            title="Throughput",
            unit="samples/s, all workers",
            names=take("samples_per_s"),
            from_zero=True,
        ),
    ]
    memory = take(*(name for name in names if name.startswith("memory_")))
    others = [Chart(key=name, title=name, names=[name]) for name in left[:MAX_OTHERS]]
    return [
        *charts,
        Chart(key="memory", title="Memory of rank 0", unit="GB", names=memory, scale=1e9, from_zero=True),
        Chart(key="workers", title="Workers", is_step=True, from_zero=True),
        *others,
    ]


def _fill(chart: Chart, record: Record, run: str, limit: int) -> None:
    began = record.began or 0.0
    if chart.key == "workers":
        samples = _workers(record)
        if samples:
            chart.points.append(_columns(run, "workers", samples, began, 1.0))
            chart.names = ["workers"]
        return
    for name in chart.names:
        finite = split_finite(record.series.get(name, []))[0]
        kept = [sample for sample in finite if not sample.is_lost]
        lost = [sample for sample in finite if sample.is_lost]
        if kept or lost:
            chosen = thinned(kept, limit) + thinned(lost, max(8, limit // 4))
            chart.points.append(_columns(run, name, chosen, began, chart.scale))


def _workers(record: Record) -> list[Sample]:
    samples = [Sample(attempt.first_step, attempt.began, attempt.workers) for attempt in record.attempts]
    if samples:
        last = record.attempts[-1]
        samples.append(Sample(last.last_step, last.ended, last.workers))
    return samples


def _columns(run: str, name: str, samples: Sequence[Sample], began: float, scale: float) -> dict[str, Any]:
    return {
        "r": run,
        "n": name,
        "s": [sample.step for sample in samples],
        "t": [None if sample.time is None else round(sample.time - began, 1) for sample in samples],
        "v": [float(f"{sample.value / scale:.5g}") for sample in samples],
        "l": [int(sample.is_lost) for sample in samples] if any(one.is_lost for one in samples) else [],
    }


def rows_of(chart: Chart, *, by_time: bool, unit: tuple[str, float]) -> list[dict[str, Any]]:
    """The points of a chart as rows, for a picture; a page makes them itself."""
    rows: list[dict[str, Any]] = []
    for curve in chart.points:
        lost = curve["l"] or [0] * len(curve["s"])
        for step, seconds, value, is_lost in zip(curve["s"], curve["t"], curve["v"], lost, strict=True):
            x = step if not by_time else None if seconds is None else seconds / unit[1]
            rows.append(
                {"x": x, "y": value, "name": curve["n"], "run": curve["r"], "lost": bool(is_lost), "part": 0}
            )
    return rows
