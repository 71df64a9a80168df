"""The files of cluster/monitoring name the metrics that the code exports, in the languages of those who read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from raytrainer.driver.metrics import COUNTERS, EVALUATION, GAUGES

MONITORING = Path(__file__).parents[2] / "cluster/monitoring"
EXPORTED = {f"ray_{name}" for name in (*GAUGES, EVALUATION)} | {f"ray_{name}_total" for name in COUNTERS}
PROMTOOL = shutil.which("promtool")


def dashboard() -> dict[str, Any]:
    return json.loads((MONITORING / "grafana_dashboard.json").read_text())


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def promtool(*arguments: object) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    assert set(re.findall(r"ray_\w+", " ".join(queries()))) == EXPORTED


def test_rates_are_taken_of_counters_and_slopes_of_gauges() -> None:
    of_rates = re.findall(r"(?:rate|increase)\((ray_\w+)", " ".join(queries()))
    of_slopes = re.findall(r"(?:deriv|delta)\((ray_\w+)", " ".join(queries()))
    assert of_rates
    assert set(of_rates) <= {f"ray_{name}_total" for name in COUNTERS}
    assert set(of_slopes) <= {f"ray_{name}" for name in GAUGES}


def test_labels_of_the_dashboard_are_those_of_its_metrics() -> None:
    labels = {
        label
        for query in queries()
        for kept in re.findall(r"(?:by|on) \(([^)]*)\)", query)
        for label in kept.replace(" ", "").split(",")
    }
    labels |= set(re.findall(r"[{,]\s*(\w+)\s*[=!]", " ".join(queries())))
    assert labels == {"run", "metric"}
    assert all(EVALUATION in query for query in queries() if "metric" in query)


def test_the_dashboard_can_be_narrowed_to_runs() -> None:
    (runs,) = (one for one in dashboard()["templating"]["list"] if one["name"] == "run")
    assert runs["definition"] == "label_values(ray_raytrainer_step, run)"
    assert all('run=~"$run"' in query for query in queries())


def test_no_panel_of_the_dashboard_hides_another() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    squares = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(squares) == len(set(squares))
    assert max(x for x, _ in squares) < 24


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")
def test_prometheus_reads_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel_{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")
def test_prometheus_reads_its_file() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")


def test_prometheus_finds_the_nodes_where_ray_lists_them() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    assert discovery["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]


def test_the_pod_monitor_selects_the_pods_of_kuberay() -> None:
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    assert monitor["kind"] == "PodMonitor"
    assert monitor["spec"]["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
