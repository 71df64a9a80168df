"""Draws the figures of the architecture page: python docs/images/draw.py."""

from __future__ import annotations

from html import escape
from pathlib import Path

STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #1c2430 }
.small { font-size: 12px; fill: #4a5568 }
.lane { fill: #f4f6fa; stroke: #c3cad6 }
.box { fill: #ffffff; stroke: #3f51b5; stroke-width: 1.5 }
.key { fill: #dfe4fb; stroke: #3f51b5; stroke-width: 1.5 }
path { fill: none; stroke: #3f51b5; stroke-width: 1.5; marker-end: url(#tip) }
.back { stroke-dasharray: 5 4 }
polygon { fill: #3f51b5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9f2 }
.small { fill: #b3bccd }
.lane { fill: #262a36; stroke: #454c5e }
.box { fill: #1b1e27; stroke: #8c9eff }
.key { fill: #34408a; stroke: #8c9eff }
path { stroke: #8c9eff }
polygon { fill: #8c9eff }
}
</style>
<defs><marker id="tip" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">
<polygon points="0 0,9 4,0 8"/></marker></defs>"""


def lane(x: int, y: int, width: int, height: int, title: str) -> str:
    """A titled area."""
    return (
        f'<rect class="lane" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
        f'<text x="{x + 14}" y="{y + 24}" font-weight="600">{escape(title)}</text>'
    )


def box(x: int, y: int, width: int, lines: list[str], kind: str = "box") -> str:
    """A box with a line of text and smaller ones under it."""
    height = 18 + 18 * len(lines)
    parts = [f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>']
    for row, line in enumerate(lines):
        style = ' class="small"' if row else ""
        middle = x + width // 2
        parts.append(
            f'<text{style} x="{middle}" y="{y + 23 + 18 * row}" text-anchor="middle">{escape(line)}</text>'
        )
    return "".join(parts)


def arrow(path: str, kind: str = "") -> str:
    """A line that ends in a tip."""
    return f'<path class="{kind}" d="{path}"/>'


def note(x: int, y: int, text: str) -> str:
    """Small text."""
    return f'<text class="small" x="{x}" y="{y}">{escape(text)}</text>'


def drawing(width: int, height: int, parts: list[str]) -> str:
    """A whole file, transparent; its colors follow those of the page."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    return "\n".join([head, STYLE, *parts, "</svg>\n"])


def run() -> str:
    """From the call to the loop and back."""
    return drawing(
        820,
        480,
        [
            lane(10, 10, 230, 460, "Driver"),
            lane(290, 10, 520, 460, "Every worker (one per rank)"),
            box(30, 50, 190, ["Trainer(...)", "arguments are checked"]),
            box(30, 140, 190, ["train()", "the trainer is sent once"]),
            box(30, 230, 190, ["events", "progress, logs, failures"]),
            box(30, 400, 190, ["trainer.state, .model", "weights when read"]),
            box(310, 140, 220, ["set up", "device, seed, backend, model"]),
            box(570, 140, 220, ["open the run", "pick a checkpoint, load it"]),
            box(570, 240, 220, ["optimizer step", "forward, backward, clip, step"], "key"),
            box(310, 240, 220, ["boundary", "agree, log, evaluate, save"], "key"),
            box(570, 400, 220, ["close", "metrics, best model"]),
            box(310, 400, 220, ["wait for the next task"]),
            arrow("M125 104 V140"),
            arrow("M220 167 H310"),
            arrow("M530 167 H570"),
            arrow("M680 194 V240"),
            arrow("M570 258 H530"),
            arrow("M530 282 H570"),
            arrow("M310 262 H220", "back"),
            arrow("M680 294 V400"),
            arrow("M570 422 H530"),
            arrow("M310 424 H220", "back"),
            arrow("M420 294 V345 H260 V185 H310", "back"),
            note(305, 365, "a worker died: a new group opens the run again"),
            note(692, 355, "last step"),
        ],
    )


def save() -> str:
    """From the first file to the rename."""
    return drawing(
        820,
        360,
        [
            lane(10, 10, 800, 105, "Every rank"),
            lane(10, 125, 800, 105, "Rank 0"),
            lane(10, 240, 800, 110, "On storage"),
            box(215, 45, 170, ["write its files", "weights, optimizer, RNG"]),
            box(410, 45, 150, ["hash and sync", "its files"]),
            box(30, 160, 160, ["make a directory", "with a temporary name"]),
            box(440, 160, 160, ["write the manifest", "with all hashes; sync"]),
            box(630, 160, 160, ["rename, sync", "this is the commit"], "key"),
            box(
                30,
                280,
                570,
                [
                    "a temporary directory, which is never taken for a checkpoint",
                    "killed here: the previous checkpoint is used",
                ],
            ),
            box(630, 280, 160, ["checkpoint-{step}", "complete"], "key"),
            arrow("M110 160 V72 H215"),
            arrow("M385 72 H410"),
            arrow("M485 99 V160"),
            arrow("M600 187 H630"),
            arrow("M710 214 V280"),
            arrow("M600 307 H630"),
        ],
    )


if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / "run.svg").write_text(run())
    (folder / "save.svg").write_text(save())
