"""``raytrainer doctor`` looks at this machine, at a storage, and at the nodes of a cluster."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from raytrainer.cli import doctor as module
from raytrainer.cli import node_packages
from raytrainer.cli.main import main
from raytrainer.cli.node_facts import NodeFacts, node_facts, storage_problem
from tests.buckets import MemoryBucket


def test_this_machine_is_shown_in_80_columns_and_no_ray_is_started(capsys: pytest.CaptureFixture[str]):
    import ray

    was_there = ray.is_initialized()
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for part in ("Python 3.", "torch ", "can be used", "none is named", "No problem found."):
        assert part in text
    assert ray.is_initialized() == was_there


def test_what_is_looked_at_is_said_before_torch_is_imported():
    script = """
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("<torch>", flush=True)
sys.meta_path.insert(0, Watch())
from raytrainer.cli.main import main
main(["doctor"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "Looking at this machine, its packages and the optimizers."
    assert done.stdout.index("✓ machine") < done.stdout.index("<torch>") < done.stdout.index("✓ devices")
    assert "importing" not in done.stderr, "a line that goes away needs a terminal"


def test_a_directory_is_tried_and_nothing_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = tmp_path / "not" / "there"
    assert main(["doctor", "--storage", str(place), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["well"] is True
    storage = [one for one in found["findings"] if one["section"] == "storage"]
    assert [one["state"] for one in storage] == ["ok"]
    assert "written, read, listed and deleted" in storage[0]["text"]
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_is_tried_and_nothing_stays(memory_bucket: MemoryBucket, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--storage", memory_bucket.uri]) == 0
    assert "listed and deleted" in " ".join(capsys.readouterr().out.split())
    assert memory_bucket.objects("") == {}


def test_a_place_that_cannot_be_written_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("no directory")
    assert main(["doctor", "--storage", str(tmp_path / "file" / "runs")]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "cannot be used" in text
    assert "1 problem found." in text


def test_a_directory_of_one_machine_alone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raytrainer.cli.node_facts._SEEN_S", 0.0)
    (tmp_path / ".doctor-seen").touch()
    assert storage_problem(str(tmp_path), ".doctor-seen") is None
    problem = storage_problem(str(tmp_path), ".doctor-not")
    assert problem is not None
    assert "not the directory that the first machine sees" in problem


def test_a_node_with_other_versions_or_without_an_answer_is_a_problem():
    here = node_facts()
    versions = {**here.facts["versions"], "torch": "1.0"}  # pyright: ignore[reportGeneralTypeIssues]
    other = NodeFacts(host="other", facts={**here.facts, "versions": versions})
    found = {one.what: one for one in module._node("node b", other, here, None)}
    assert found["versions"].state == "bad"
    assert "torch 1.0, and " in found["versions"].text
    (silent,) = module._node("node c", "it did not answer in time", here, None)
    assert silent.state == "bad"


def test_a_node_that_lacks_packages_is_told_with_what_it_lacks():
    there = {
        "python": "/usr/bin/python3",
        "torch": None,
        "accelerate": None,
        "transformers": "4.0",
        "ray": None,
    }
    here = node_facts()
    there["ray"] = str(here.facts["versions"]["ray"])  # pyright: ignore[reportIndexIssue]
    found = module._silent("node c", "ModuleNotFoundError: No module named 'torch'", there, here)
    assert found.state == "bad"
    assert "/usr/bin/python3 there has no torch, no accelerate: install" in found.text
    assert "transformers 4.0, and " in found.text
    assert "ray " not in found.text


def test_what_a_node_lacks_is_asked_without_anything_of_ours(tmp_path: Path):
    from ray import cloudpickle

    from raytrainer.driver.every_node import by_value

    with by_value(node_packages):
        (tmp_path / "question").write_bytes(cloudpickle.dumps(node_packages.packages_there))
    script = (
        "import pickle, sys; sys.modules['raytrainer'] = None; "
        "print(pickle.load(open(sys.argv[1], 'rb'))(['no-such-package', 'torch']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "question")], capture_output=True, text=True, check=True
    )
    found = ast.literal_eval(done.stdout)
    assert found["no-such-package"] is None
    assert found["torch"]


def test_a_cluster_that_does_not_answer_ends_with_2(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--address", "127.0.0.1:1"]) == 2
    assert "No Ray cluster answers" in capsys.readouterr().err
    assert main(["doctor", "--address", "local"]) == 0


@pytest.mark.ray
def test_every_node_of_a_cluster_is_asked(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import ray

    assert main(["doctor", "--address", "auto", "--storage", str(tmp_path / "runs"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    (node,) = {one["section"] for one in found if one["section"].startswith("node ")}
    whats = {one["what"]: one["state"] for one in found if one["section"] == node}
    assert whats["machine"] == whats["devices"] == whats["storage"] == "ok"
    assert "versions" not in whats
    assert ray.is_initialized()
    assert list(tmp_path.iterdir()) == []
