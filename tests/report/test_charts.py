"""How curves are drawn: a few values that would hide the others, the ends of attempts, what lines across them mean."""

from __future__ import annotations

from raytrainer.report.charts import (
    DENSE,
    ENDING_COLORS,
    FEW,
    Chart,
    is_logarithmic,
    spec_of,
    timeline_spec,
    words_of,
)

UNIT = ("s", 1.0)


def chart(values: list[float]) -> Chart:
    steps = list(range(len(values)))
    curve = {"r": "run", "n": "loss", "s": steps, "t": steps, "v": values, "l": []}
    return Chart(key="loss", title="Loss", names=["loss"], points=[curve])


def scale_of(values: list[float]) -> dict[str, object]:
    spec = spec_of(chart(values), by_time=False, unit=UNIT, runs=["run"])
    return spec["layer"][0]["encoding"]["y"]["scale"]


def test_a_spike_that_would_hide_a_curve_makes_its_scale_logarithmic():
    usual = [1.0 + 0.01 * step for step in range(10 * FEW)]
    assert "type" not in scale_of(usual)
    assert "type" not in scale_of([*usual, 20.0]), "the others are seen beside it"
    assert scale_of([*usual, 700.0])["type"] == "log"
    assert is_logarithmic(chart([*usual, 700.0]))
    assert "type" not in scale_of([*usual, 700.0, 0.0]), "a logarithm needs values above 0"
    assert "type" not in scale_of([1.0, 2.0, 700.0]), "so few points are not a curve and a spike"


def test_the_ends_of_attempts_that_occur_are_in_the_legend():
    spec = timeline_spec(UNIT, by_time=False, endings=["died or failed", "finished", "died or failed"])
    color = spec["encoding"]["color"]
    assert color["legend"]["values"] == ["finished", "died or failed"]
    assert color["scale"]["domain"] == list(ENDING_COLORS), "a color means the same on every page"


def test_a_picture_says_what_the_lines_across_it_mean():
    assert words_of(["resize", "restart", "restart"]) == (
        "dashed orange, a death or failure after which the workers started again; "
        "dotted blue, another number of workers"
    )


def test_a_curve_of_few_points_is_seen_in_front_of_a_band():
    both = chart([1.0] * (DENSE + 1))
    both.names.append("eval_loss")
    both.points.append({"r": "run", "n": "eval_loss", "s": [0, 1], "t": [0, 1], "v": [1.0, 1.0], "l": []})
    encoding = spec_of(both, by_time=False, unit=UNIT, runs=["run"])["layer"][0]["encoding"]
    assert encoding["strokeWidth"]["condition"]["test"]["oneOf"] == ["eval_loss"]
    assert encoding["strokeWidth"]["condition"]["value"] > encoding["strokeWidth"]["value"]
    both.points[0] |= {"s": [0], "t": [0], "v": [1.0]}
    assert "strokeWidth" not in spec_of(both, by_time=False, unit=UNIT, runs=["run"])["layer"][0]["encoding"]
