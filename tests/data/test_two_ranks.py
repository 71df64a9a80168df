"""However data are split over two ranks, every sample counts the same; a stream resumes on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.cutting import SAVED, STEPS, run_case
from tests.torchrun import torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("split")


@pytest.fixture(scope="module")
def alone(directory: Path) -> dict[str, Any]:
    """What a single rank that read the stream saw."""
    return run_case("shards", directory / "alone", num_ranks=1)


@pytest.fixture(scope="module")
def on_two(directory: Path, alone: dict[str, Any]) -> dict[str, Any]:
    """Name of a case -> what each of two ranks saw; one case resumes from a checkpoint of one rank."""
    assert alone["wrapper"] != "DistributedDataParallel"
    return torchrun("data/rank.py", [str(directory)], target=directory / "results.json", timeout_s=180)


def numbers(seen: dict[str, Any]) -> list[float]:
    return [*seen["losses"], *seen["norms"], seen["eval_loss"]]


def test_all_cases_trained_on_two_ranks(on_two: dict[str, Any]) -> None:
    for name, ranks in on_two.items():
        for seen in ranks:
            assert seen["wrapper"] == "DistributedDataParallel", name
            assert len(seen["losses"]) == len(set(seen["losses"])) == STEPS, name


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("split", "map"),
        ("dealt map", "map"),
        ("dealt stream", "stream"),
        ("dealt shards", "shards"),
        ("dealt shards by processes", "shards by processes"),
        ("dealt uneven", "uneven 1"),
        ("shards resumed", "shards"),
        ("dealt shards resumed", "shards"),
    ],
)
def test_the_same_batches_give_the_same_bits(on_two: dict[str, Any], name: str, same: str) -> None:
    assert numbers(on_two[name][0]) == numbers(on_two[same][0])


def test_the_table_of_a_run_tells_how_samples_reach_the_ranks(on_two: dict[str, Any]) -> None:
    assert on_two["stream"][0]["table"] == []
    assert on_two["uneven 1"][0]["table"] == ["each sample once"]
    for seen in on_two["dealt uneven"]:
        assert seen["table"] == ["rank 0 reads for all", "each sample once"]


def test_a_loader_of_the_users_that_is_not_divided_is_warned_about(on_two: dict[str, Any]) -> None:
    for seen in on_two["own loader"]:
        assert "DataLoader that is not divided over the 2 workers" in "".join(seen["notes"])
    for seen in (*on_two["own loader prepared"], *on_two["map"]):
        assert "not divided" not in "".join(seen["notes"])


def test_what_a_sampler_divides_is_predicted_on_all_ranks(on_two: dict[str, Any]) -> None:
    ours = on_two["map"][0]["predicted"]
    for seen in on_two["own loader with a sampler"]:
        assert sorted(seen["predicted"]) == sorted(ours)
        assert len(ours) == 4


def test_ranks_with_different_numbers_of_batches_predict_on_all_of_them(on_two: dict[str, Any]) -> None:
    ours = [[token for token in row if token != -100] for row in on_two["map"][0]["predicted"]]
    for seen in on_two["own stream by node"]:
        found = [[token for token in row if token != -100] for row in seen["predicted"]]
        assert sorted(found) == sorted(ours[:3])


def test_a_prepared_loader_gives_the_batches_of_the_trainers_own(on_two: dict[str, Any]) -> None:
    assert on_two["own loader prepared"][0]["losses"] == on_two["map"][0]["losses"]
    assert on_two["own loader"][0]["losses"] != on_two["map"][0]["losses"]


def test_reducing_after_each_micro_batch_changes_no_loss(on_two: dict[str, Any]) -> None:
    assert numbers(on_two["reduced each time"][0]) == pytest.approx(numbers(on_two["map"][0]), abs=1e-5)


def test_rank_0_alone_reads_what_it_deals_out(on_two: dict[str, Any]) -> None:
    assert [seen["num_read"] for seen in on_two["stream"]] == [on_two["stream"][0]["num_read"]] * 2
    first, second = (seen["num_read"] for seen in on_two["dealt stream"])
    assert first > 0
    assert second == 0


@pytest.mark.parametrize(
    "name", ["uneven 3", "uneven 1", "uneven stream 1", "uneven classes 3", "uneven classes 1"]
)
def test_without_fill_ups_two_ranks_have_the_losses_of_one(
    on_two: dict[str, Any], name: str, tmp_path: Path
) -> None:
    alone = run_case(name, tmp_path, num_ranks=1)
    assert alone["wrapper"] != "DistributedDataParallel"
    assert numbers(on_two[name][0]) == pytest.approx(numbers(alone), abs=1e-5)


@pytest.mark.parametrize("missing", [1, 3])
def test_samples_that_fill_up_count_in_training_as_if_they_were_in_the_data(
    on_two: dict[str, Any], missing: int, tmp_path: Path
) -> None:
    name = f"filled up by {missing}"
    filled, written = (on_two[one][0]["losses"][:3] for one in (name, f"written out with {missing}"))
    assert filled == written
    alone = run_case(name, tmp_path, num_ranks=1)["losses"]
    assert filled[2] != pytest.approx(alone[2], abs=1e-4), "one rank needs no filling up"


@pytest.mark.usefixtures("on_two")
@pytest.mark.parametrize("name", ["shards", "dealt shards"])
def test_a_stream_that_two_ranks_read_goes_on_on_one(
    alone: dict[str, Any], name: str, directory: Path, tmp_path: Path
) -> None:
    checkpoint = directory / name / f"checkpoint-{SAVED}"
    resumed = run_case("shards", tmp_path, num_ranks=1, resumes_from=checkpoint)
    assert numbers(resumed) == pytest.approx(numbers(alone), abs=1e-5)


def test_a_stream_that_one_rank_read_goes_on_on_two(alone: dict[str, Any], on_two: dict[str, Any]) -> None:
    resumed = on_two["shards of one rank resumed"][0]
    assert numbers(resumed) == pytest.approx(numbers(alone), abs=1e-5)
