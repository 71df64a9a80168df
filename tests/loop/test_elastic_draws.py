"""On 1, 2 and 3 ranks an elastic run draws the same random numbers, and so has the same losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest

from tests.loop.elastic_rank import FINE_TUNED, FSDP, MOST, ORDER, RUNS, SAVED, STEPS
from tests.torchrun import torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

Results = dict[int, dict[str, dict[str, Any]]]
TRAINED = [name for name, options in RUNS.items() if "resumes" not in options]
RESUMED = [name for name in RUNS if name not in TRAINED]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Number of ranks -> name of a run -> what rank 0 saw."""
    directory = tmp_path_factory.mktemp("elastic")
    found: Results = {}
    for num_ranks in ORDER:
        target = directory / f"results-{num_ranks}.json"
        arguments = [str(directory), str(target)]
        found[num_ranks] = torchrun(
            "loop/elastic_rank.py", arguments, target=target, num_ranks=num_ranks, timeout_s=240
        )
    return found


def test_all_runs_trained_on_the_ranks_there_were(results: Results) -> None:
    for num_ranks, runs in results.items():
        for name, seen in ((one, runs[one]) for one in runs if one != FINE_TUNED):
            assert seen["world_size"] == num_ranks, name
            assert len(set(seen["losses"])) == STEPS == seen["max_steps"], name
            is_sharded = RUNS[name].get("fsdp") == FSDP["fsdp"]
            assert (seen["dtensors"] > 0) is is_sharded, name
            assert (seen["wrapper"] == "DistributedDataParallel") is not is_sharded, name


def test_ranks_have_unequal_numbers_of_micro_batches(results: Results) -> None:
    full, short = 2 * MOST, MOST
    for num_ranks, runs in results.items():
        turns = 2 * (2 * -(-full // num_ranks) + -(-short // num_ranks))
        assert runs["ddp"]["micro_batches"] == turns
    assert any(full % num_ranks or short % num_ranks for num_ranks in ORDER)


@pytest.mark.parametrize("left_out", ["dropout", "noise", "augmentation"])
def test_what_draws_is_on(results: Results, left_out: str) -> None:
    for runs in results.values():
        without = runs[f"ddp without {left_out}"]
        differences = [
            abs(one - other) for one, other in zip(runs["ddp"]["losses"], without["losses"], strict=True)
        ]
        assert max(differences) > 1e-3
        assert runs["ddp"]["norms"] != pytest.approx(without["norms"], rel=1e-3)


@pytest.mark.parametrize("name", TRAINED)
def test_losses_gradients_and_epochs_are_those_of_the_largest_number(results: Results, name: str) -> None:
    whole = results[MOST][name]
    for num_ranks in ORDER[1:]:
        seen = results[num_ranks][name]
        for key in ("losses", "norms"):
            assert seen[key] == pytest.approx(whole[key], rel=0, abs=1e-5), (num_ranks, key)
        for key in ("rates", "epochs", "tokens", "flos"):
            assert seen[key] == whole[key], (num_ranks, key)


def test_what_is_logged_of_tokens_leaves_stand_ins_out(results: Results) -> None:
    whole = results[MOST][FINE_TUNED]["rows"]
    assert len(whole) >= STEPS
    for num_ranks in ORDER[1:]:
        for seen, expected in zip(results[num_ranks][FINE_TUNED]["rows"], whole, strict=True):
            assert seen == pytest.approx(expected, rel=0, abs=1e-5), num_ranks


def test_sharding_changes_no_loss(results: Results) -> None:
    for runs in results.values():
        assert runs["fsdp"]["losses"] == pytest.approx(runs["ddp"]["losses"], abs=1e-5)


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_of_another_number_of_ranks_goes_on_in_the_middle_of_an_epoch(
    results: Results, name: str
) -> None:
    whole = results[MOST][RUNS[name]["resumes"]]
    assert whole["epochs"][SAVED - 1] % 1 != 0
    for num_ranks in ORDER[1:]:
        seen = results[num_ranks][name]
        assert seen["losses"] == pytest.approx(whole["losses"], rel=0, abs=1e-5), num_ranks
        assert seen["norms"] == pytest.approx(whole["norms"], rel=0, abs=1e-5), num_ranks


def test_the_ledger_of_changing_numbers_of_ranks_has_each_sample_once(results: Results) -> None:
    workers = {3: "3 workers", 1: "1 and 3 workers", 2: "2 and 3 workers"}
    for num_ranks, runs in results.items():
        for epoch, said in enumerate(runs["ledger"]["said"]):
            on = workers[num_ranks] if epoch == 0 else f"{num_ranks} worker{'s' if num_ranks > 1 else ''}"
            assert said == (
                f"sample ledger: epoch {epoch}: each of 29 samples was used once, 1 more filled up the last round "
                f"(3 steps on {on})."
            )
        assert len(runs["ledger"]["said"]) == 2
        assert runs["ledger"]["losses"] == pytest.approx(results[MOST]["ddp"]["losses"], abs=1e-5)
