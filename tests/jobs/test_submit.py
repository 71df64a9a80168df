"""``ray job submit`` to a cluster of one machine, as in cluster/README.md, with Ray's default token."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.jobs.head import running_head

MAJORITY = 0.43


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_the_example_trains_as_a_job_with_a_token(tmp_path: Path) -> None:
    with running_head() as head:
        refused = head.submit("true", RAY_AUTH_MODE="disabled")
        assert refused.returncode != 0, "the cluster must ask for its token"

        flags = ["--num_workers", "2", "--max_steps", "12", "--output_dir", str(tmp_path / "out")]
        done = head.submit("python", "examples/text_classification.py", *flags)

    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert re.search(r"workers +│ 2 +│ ✓ 2 x cpu", output), output[-4000:]
    assert "DistributedDataParallel (gloo)" in output
    found = re.search(r"^accuracy (0\.\d+)", output, re.MULTILINE)
    assert found, output[-4000:]
    assert float(found[1]) > MAJORITY + 0.05
    assert (tmp_path / "out" / "checkpoint-12" / "manifest.json").exists()
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
