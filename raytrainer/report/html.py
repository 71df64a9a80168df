"""How the page of runs is put together: facts first, then what happened, the curves, and everything in tables.

Pure: it is given what it shows. Readable on a phone and in print; without scripts its tables and facts remain.
"""

from __future__ import annotations

import html
import importlib.resources
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raytrainer._version import __version__
from raytrainer.report.charts import MARK_WORDS, words_of
from raytrainer.report.record import Attempt, Record
from raytrainer.report.sweep import Sweep
from raytrainer.telemetry.formatting import format_bytes, format_duration, format_value

MAX_HAPPENINGS = 200
MAX_SAVES = 400
_ENDINGS = {
    "end": "finished",
    "restart": "died or failed",
    "died": "died or failed",
    "failed": "died or failed",
    "move": "moved",
    "interrupted": "interrupted",
    "running": "no end recorded",
}
WHOLE = re.compile(r"\d{4}-\d\d-\d\d|\d+(?:\.\d+)? [a-zA-Z]{1,2}\b")
"""What is on one line in a narrow table: a date, a number with its unit."""
_LOUD = {"restart", "failed"}


def page(
    records: Sequence[Record],
    sweeps: Sequence[Sweep],
    *,
    specs: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    script: str,
) -> str:
    """The text of a page.

    Args:
        records: The runs.
        sweeps: The sweeps.
        specs: Its charts.
        data: What they draw.
        script: The library that draws.
    """
    names = [record.name for record in records] or [sweep.name for sweep in sweeps]
    title = " · ".join(dict.fromkeys([*(sweep.name for sweep in sweeps), *names]))
    figures = "".join(
        f'<figure class="{"wide" if spec.get("wide") else ""}"><figcaption>{_text(spec["title"])}</figcaption>'
        f'<div class="plot" id="plot-{number}"></div><output id="value-{number}"></output></figure>'
        for number, spec in enumerate(specs)
    )
    switch = (
        '<fieldset class="axis"><legend>curves over</legend>'
        '<label><input type="radio" name="axis" value="step" checked> steps</label>'
        '<label><input type="radio" name="axis" value="time"> wall time</label></fieldset>'
        if records or sweeps
        else ""
    )
    body = [
        f"<header><h1>{_text(title)}</h1>{switch}</header>",
        *(_sweep(sweep) for sweep in sweeps),
        _facts(records),
        _happenings(records),
        _charts(figures, _NOTE if records else _SWEEP_NOTE) if specs else "",
        _saves(records),
        _engaged(records),
        _arguments(records),
        _environments(records),
        f"<footer>Written by raytrainer {_text(__version__)} on {_text(_moment(time.time()))}. "
        "This file is complete: it loads nothing.</footer>",
    ]
    read = importlib.resources.files("raytrainer.report").joinpath
    style = read("page.css").read_text(encoding="utf-8")
    draw = read("page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="generator" content="raytrainer"><link rel="icon" href="data:,">'
        f"<title>{_text(title)}</title><style>{style}</style></head><body>{''.join(body)}"
        f"<script>{script}</script>"
        f"<script>const SPECS={_json(specs)};const DATA={_json(data)};{draw}</script></body></html>\n"
    )


def attempts_data(records: Sequence[Record], runs: Sequence[str]) -> list[dict[str, Any]]:
    """The attempts of runs as bars.

    Args:
        records: The runs.
        runs: Their names on the page.
    """
    rows: list[dict[str, Any]] = []
    for record, run in zip(records, runs, strict=True):
        began = record.began or 0.0
        for number, attempt in enumerate(record.attempts):
            workers = f"{attempt.workers} worker{'s' if attempt.workers != 1 else ''}"
            label = f"{number + 1} · {workers}"
            rows.append(
                {
                    "run": run,
                    "label": f"{run} {label}" if len(records) > 1 else label,
                    "s": attempt.first_step,
                    "s2": attempt.last_step,
                    "t": round(attempt.began - began, 2),
                    "t2": round(attempt.ended - began, 2),
                    "ending": _ENDINGS.get(attempt.ending, attempt.ending),
                    "text": attempt.cause or _ENDINGS.get(attempt.ending, attempt.ending),
                }
            )
    return rows


_SWEEP_NOTE = "The best trial is drawn in thick orange."
_NOTE = (
    "Every stretch of a long curve keeps its first and last point and its least and greatest value. Lines across the "
    f"curves: {words_of(MARK_WORDS)}. Gray points, over wall time: steps that a death took back."
)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _charts(figures: str, note: str) -> str:
    return f'<section class="charts" aria-label="Curves">{figures}</section><p class="note">{note}</p>'


def _facts(records: Sequence[Record]) -> str:
    if not records:
        return ""
    rows = [_facts_of(record) for record in records]
    if len(records) == 1:
        cells = "".join(
            f"<div><dt>{_text(name)}</dt><dd>{value}</dd></div>" for name, value in rows[0].items()
        )
        return f'<section><dl class="facts">{cells}</dl></section>'
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = _table(
        ["", *(_text(record.name) for record in records)],
        [[_text(name), *(row.get(name, "–") for row in rows)] for name in names],
        is_html=True,
    )
    return f"<section><h2>Side by side</h2>{table}</section>"


def _facts_of(record: Record) -> dict[str, str]:
    facts = {"state": f'<span class="state {_text(record.state.split()[0])}">{_text(record.state)}</span>'}
    of = f" of {record.max_steps:,}" if record.max_steps else ""
    facts["steps"] = f"{record.step:,}{of}"
    loss = record.last("loss")
    if loss is not None:
        facts["last loss"] = _text(format_value(loss))
    evaluations = [name for name in record.series if name.startswith("eval_")]
    for name in evaluations[:3]:
        value = record.last(name)
        if value is not None:
            facts[f"last {name}"] = _text(format_value(value))
    if record.best_metric is not None:
        facts[f"best {record.best_metric[0]}"] = _text(format_value(record.best_metric[1]))
    if record.began is not None and record.heard is not None:
        facts["duration"] = _text(format_duration(record.heard - record.began))
        facts["began"] = _text(_moment(record.began))
        facts["last record"] = _text(_moment(record.heard))
    speed = record.final.get("train_samples_per_second") or record.last("samples_per_s")
    if speed:
        facts["samples/s"] = _text(format_value(speed))
    if record.attempts:
        facts["workers"] = " → ".join(str(number) for number in _changes(record.attempts))
        facts["restarts"] = str(len(record.restarts))
    if record.earlier_calls:
        facts["earlier runs in this directory"] = str(record.earlier_calls)
    return facts


def _changes(attempts: Sequence[Attempt]) -> list[int]:
    numbers = [attempt.workers for attempt in attempts]
    return [number for index, number in enumerate(numbers) if index == 0 or number != numbers[index - 1]]


def _happenings(records: Sequence[Record]) -> str:
    rows: list[list[str]] = []
    classes: list[str] = []
    for record in records:
        loud = [one for one in record.happenings if one.kind != "note"]
        left = len(loud) - MAX_HAPPENINGS
        for one in loud[-MAX_HAPPENINGS:]:
            after = format_duration(one.time - (record.began or one.time))
            row = [f"{one.step:,}", after, one.kind, one.text]
            rows.append([record.name, *row] if len(records) > 1 else row)
            classes.append("loud" if one.kind in _LOUD else "")
        if left > 0:
            filler = ["…", "", "", f"and {left:,} earlier ones, all in events.jsonl"]
            rows.append([record.name, *filler] if len(records) > 1 else filler)
            classes.append("")
    if not rows:
        return ""
    heads = ["step", "after", "what", "text"]
    table = _table(["run", *heads] if len(records) > 1 else heads, rows, classes=classes)
    return f"<section><h2>What happened</h2>{table}</section>"


def _saves(records: Sequence[Record]) -> str:
    parts: list[str] = []
    for record in records:
        if not record.saves:
            continue
        rows = [
            [
                f"checkpoint-{save.step}" + (" ★ best" if save.is_best else ""),
                "–" if save.num_bytes is None else format_bytes(save.num_bytes),
                "–" if save.seconds is None else format_duration(save.seconds),
                "–" if save.time is None else _moment(save.time),
                "yes" if save.is_there else "deleted",
            ]
            for save in record.saves[-MAX_SAVES:]
        ]
        classes = [
            "best" if save.is_best else "" if save.is_there else "gone" for save in record.saves[-MAX_SAVES:]
        ]
        heads = ["checkpoint", "size", "saved in", "at", "still there"]
        table = _table(heads, rows, classes=classes, name="saves")
        whole = sum(save.seconds or 0.0 for save in record.saves)
        note = f"{len(record.saves)} saves took {format_duration(whole)} in all"
        if any(save.waited_s is not None for save in record.saves):
            waited = sum(
                (save.seconds if save.waited_s is None else save.waited_s) or 0.0 for save in record.saves
            )
            note += f"; training waited for {format_duration(waited)} of it"
        note += "."
        parts.append(
            f"{_of(record, records)}<p>{_text(note)}</p>{_folded(table, len(rows) > 12, 'all checkpoints')}"
        )
    return f"<section><h2>Checkpoints</h2>{''.join(parts)}</section>" if parts else ""


def _engaged(records: Sequence[Record]) -> str:
    parts: list[str] = []
    for record in records:
        rows = [
            [
                str(row.get("what", "")),
                str(row.get("requested", "")),
                f"{'✓' if row.get('ok', True) else '✗'} {row.get('engaged', '')}",
            ]
            for row in record.engaged
        ]
        if rows:
            classes = ["" if row.get("ok", True) else "loud" for row in record.engaged]
            parts.append(_of(record, records) + _table(["", "requested", "engaged"], rows, classes=classes))
    return f"<section><h2>Requested and engaged</h2>{''.join(parts)}</section>" if parts else ""


def _arguments(records: Sequence[Record]) -> str:
    given = [record.arguments for record in records]
    names = sorted({name for arguments in given for name in arguments})
    if not names:
        return ""
    rows = [[name, *(_shown(arguments.get(name)) for arguments in given)] for name in names]
    heads = ["argument", *(record.name if len(records) > 1 else "value" for record in records)]
    parts = ""
    if len(records) > 1:
        differing = [row for row in rows if len(set(row[1:])) > 1]
        parts = _table(heads, differing) if differing else "<p>The runs have the same arguments.</p>"
        parts = f"<h3>What differs</h3>{parts}"
    all_of_them = _folded(_table(heads, rows), True, f"all {len(rows)} arguments")
    return f"<section><h2>Arguments</h2>{parts}{all_of_them}</section>"


def _environments(records: Sequence[Record]) -> str:
    parts: list[str] = []
    for record in records:
        facts = dict(record.environment)
        versions: Mapping[str, object] = facts.pop("versions", {})
        if isinstance(facts.get("memory_bytes"), int):
            facts["memory"] = format_bytes(facts.pop("memory_bytes"))
        rows = [[name, _shown(value)] for name, value in {**facts, **versions}.items()]
        if rows:
            parts.append(_of(record, records) + _table(["", "rank 0, last attempt"], rows))
    return f"<section><h2>Environment</h2>{''.join(parts)}</section>" if parts else ""


def _sweep(sweep: Sweep) -> str:
    names = sweep.hyperparameters
    sign = 1 if sweep.direction.startswith("min") else -1
    ordered = sorted(
        sweep.trials,
        key=lambda trial: (trial.objective is None, sign * (trial.objective or 0.0), trial.name),
    )
    rows = [
        [
            trial.name + (" ★ best" if trial.is_best else ""),
            trial.state,
            "–" if trial.objective is None else format_value(trial.objective),
            *(_shown(trial.hyperparameters.get(name)) for name in names),
            f"{trial.step:,}",
            format_duration(trial.seconds),
        ]
        for trial in ordered
    ]
    classes = ["best" if trial.is_best else "loud" if trial.state == "failed" else "" for trial in ordered]
    table = _table(["trial", "state", "objective", *names, "step", "time"], rows, classes=classes)
    ended = ", interrupted" if sweep.is_interrupted else ""
    text = f"{len(sweep.trials)} trials in {format_duration(sweep.seconds)}{ended}; {sweep.direction} the objective."
    trials = _folded(table, len(rows) > 15, "all trials")
    return f"<section><h2>Sweep {_text(sweep.name)}</h2><p>{_text(text)}</p>{trials}</section>"


# ---- pieces ---------------------------------------------------------------------------------------------------------


def _table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    classes: Sequence[str] | None = None,
    is_html: bool = False,
    name: str = "",
) -> str:
    def cell(text: str) -> str:
        return text if is_html else WHOLE.sub(r'<span class="whole">\g<0></span>', _text(text))

    head = "".join(f"<th>{cell(one)}</th>" for one in heads)
    lines = [
        f'<tr class="{classes[index] if classes else ""}">'
        + "".join(f"<td>{cell(one)}</td>" for one in row)
        + "</tr>"
        for index, row in enumerate(rows)
    ]
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="table {name}">{table}</div>'


def _folded(content: str, is_long: bool, summary: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{content}</details>" if is_long else content


def _of(record: Record, records: Sequence[Record]) -> str:
    return f"<h3>{_text(record.name)}</h3>" if len(records) > 1 else ""


def _shown(value: object) -> str:
    if isinstance(value, float):
        return format_value(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _text(value: object) -> str:
    return html.escape(str(value))


def _json(value: object) -> str:
    """JSON that may stand in a script of a page."""
    return (
        json.dumps(value, separators=(",", ":"), allow_nan=False)
        .replace("</", "<\\/")
        .replace("<!--", "<\\!--")
    )
