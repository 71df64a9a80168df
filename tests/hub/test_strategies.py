"""What each strategy uploads to the repository, and how."""

from __future__ import annotations

import transformers

import raytrainer
from raytrainer.hub.checkpoint_uploads import upload_checkpoint
from tests.hub.server import Repo

MODEL = {"config.json", "generation_config.json", "model.safetensors"}
STATE = {
    "loop_state.json",
    "manifest.json",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.json",
}


def folder(name: str) -> set[str]:
    return {f"{name}/{file}" for file in MODEL | STATE}


def test_end_uploads_nothing_while_training_goes_on(hub, make):
    make(hub_strategy="end").train()
    assert hub.requests == []


def test_end_uploads_the_model_and_its_card_when_it_is_saved(hub, make):
    trainer = make(hub_strategy="end")
    trainer.train()
    trainer.save_model()
    assert hub.repo("my-model").names() == MODEL | {"README.md"}
    assert [commit.message for commit in hub.repo("my-model").commits] == ["Model save"]


def test_every_save_keeps_the_newest_model_in_the_root(hub, make, tmp_path):
    make().train()
    repo = hub.repo("my-model")
    assert repo.names() == MODEL
    newest = tmp_path / "my-model" / "checkpoint-4" / "model.safetensors"
    assert repo.branches["main"]["model.safetensors"] == newest.read_bytes()


def test_checkpoint_keeps_the_newest_checkpoint_too(hub, make, tmp_path):
    make(hub_strategy="checkpoint").train()
    repo = hub.repo("my-model")
    assert repo.names() == MODEL | folder("last-checkpoint")
    newest = tmp_path / "my-model" / "checkpoint-4"
    assert {path.name: path.read_bytes() for path in newest.iterdir()} == {
        name: repo.branches["main"][f"last-checkpoint/{name}"] for name in MODEL | STATE
    }


def test_all_checkpoints_keeps_each_under_its_name(hub, make):
    make(hub_strategy="all_checkpoints", hub_always_push=True).train()
    assert hub.repo("my-model").names() == MODEL | folder("checkpoint-2") | folder("checkpoint-4")


def test_model_and_checkpoint_are_one_commit(hub, make):
    make(hub_strategy="checkpoint", hub_always_push=True).train()
    commits = hub.repo("my-model").commits
    assert [commit.message for commit in commits] == [f"Training in progress, step {n}" for n in (2, 4)]
    assert commits[0].added == MODEL | folder("last-checkpoint")


def test_saves_by_epoch_are_named_by_epoch(hub, make):
    make(save_strategy="epoch", max_steps=-1, num_train_epochs=1).train()
    assert [commit.message for commit in hub.repo("my-model").commits] == ["Training in progress, epoch 1"]


def test_weights_that_have_two_places_are_sent_once(hub, make):
    make(hub_strategy="checkpoint", save_steps=4).train()
    sent = [request for request in hub.requests if request.startswith("PUT /lfs/")]
    assert len(sent) == len({"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"})


def test_an_upload_that_is_made_twice_makes_one_commit(hub, make, tmp_path):
    trainer = make(hub_strategy="checkpoint", save_steps=4)
    trainer.train()
    upload_checkpoint(trainer, tmp_path / "my-model" / "checkpoint-4")
    trainer._finish_current_push()
    assert len(hub.repo("my-model").commits) == 1


def test_a_checkpoint_in_the_repository_has_no_files_of_another(hub, make):
    hub.repos["me/my-model"] = repo = Repo(visibility=None)
    left = {
        "last-checkpoint/rng_state_1.pth",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
    }
    kept = {"notes.txt", "other/model.safetensors"}
    repo.branches["main"].update(dict.fromkeys(left | kept, b"old"))
    make(hub_strategy="checkpoint").train()
    assert repo.names() == MODEL | folder("last-checkpoint") | kept


def test_repository_is_private_where_the_arguments_say_so(hub, make):
    make(hub_private_repo=True).train()
    assert hub.repo("my-model").visibility == "private"


def test_repository_has_the_default_of_its_namespace_otherwise(hub, make):
    make().train()
    assert hub.repo("my-model").visibility is None


def test_uploads_go_to_the_branch_of_the_arguments(hub, make):
    make(hub_revision="dev").train()
    repo = hub.repo("my-model")
    assert repo.names("dev") == MODEL
    assert repo.names() == set()


def test_repository_has_the_name_of_the_arguments(hub, make):
    trainer = make(hub_model_id="team/tiny")
    trainer.train()
    assert set(hub.repos) == {"team/tiny"}
    assert trainer.hub_model_id == "team/tiny"


def test_a_repository_that_is_named_anew_gets_the_next_training(hub, make):
    trainer = make(hub_model_id="first", save_steps=4)
    trainer.train()
    trainer.args.hub_model_id = "second"
    trainer.train()
    assert [len(hub.repo(name).commits) for name in ("first", "second")] == [1, 1]


def test_a_user_is_told_where_a_checkpoint_is(hub, make, capsys):
    make().train()
    assert f"checkpoint-4 is on {hub.url}/me/my-model" in capsys.readouterr().out


def test_tensorboards_files_and_the_card_go_along(hub, make, tmp_path):
    trainer = make()
    directory = tmp_path / "my-model"
    (directory / "runs" / "today").mkdir(parents=True)
    (directory / "runs" / "today" / "events").write_bytes(b"curves")
    (directory / "README.md").write_text("# Mine\n")
    trainer.train()
    assert hub.repo("my-model").names() == MODEL | {"README.md", "runs/today/events"}


class Counter(transformers.TrainerCallback):
    def __init__(self):
        self.pushes = 0

    def on_push_begin(self, args, state, control, **kwargs):
        self.pushes += 1


def test_callbacks_hear_of_each_push(hub, make):
    counter = Counter()
    trainer = make(callbacks=[counter])
    trainer.train()
    trainer.push_to_hub()
    assert counter.pushes == 3


def test_push_to_hub_uploads_what_the_run_directory_holds_besides_checkpoints(hub, make, tmp_path):
    trainer = make(push_to_hub=False)
    trainer.train()
    directory = tmp_path / "my-model"
    for name in (
        "results.json",
        "_draft.txt",
        "training_args.bin",
        ".hidden",
        "last-checkpoint/model.safetensors",
        "run-records/events-1a2b.jsonl",
    ):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"x")
    info = trainer.push_to_hub()
    repo = hub.repo("my-model")
    assert repo.names() == MODEL | {"README.md", "results.json"}
    assert info.commit_message == "End of training"
    assert info.commit_url.startswith(f"{hub.url}/me/my-model/commit/")


def test_push_to_hub_takes_its_own_words(hub, make):
    trainer = make(push_to_hub=False, hub_token="hf_wrong")
    trainer.push_to_hub("First try", token=hub.token, revision="try", private=True, tags="toy")
    repo = hub.repo("my-model")
    assert repo.visibility == "private"
    assert [(commit.revision, commit.message) for commit in repo.commits] == [("try", "First try")]
    assert b"- toy" in repo.branches["try"]["README.md"]


def test_push_that_does_not_block_holds_the_files_of_its_moment(hub, make, tmp_path):
    trainer = make(push_to_hub=False)
    hub.may_commit.clear()
    future = trainer.push_to_hub(blocking=False)
    weights = (tmp_path / "my-model" / "model.safetensors").read_bytes()
    (tmp_path / "my-model" / "model.safetensors").write_bytes(b"of a later save")
    assert not future.done()
    hub.may_commit.set()
    assert future.result(30).commit_message == "End of training"
    assert hub.repo("my-model").branches["main"]["model.safetensors"] == weights


def test_repository_can_be_made_before_training(hub, make):
    trainer = make()
    trainer.init_hf_repo(private=True)
    assert trainer.hub_model_id == "me/my-model"
    assert hub.repo("my-model").visibility == "private"


def test_model_of_a_user_comes_back_from_the_hub(hub, make, tmp_path):
    trainer = make()
    trainer.train()
    trainer.push_to_hub()
    back = transformers.AutoModelForCausalLM.from_pretrained("me/my-model", cache_dir=tmp_path / "cache")
    assert all(back.state_dict()[name].equal(value) for name, value in trainer.model.state_dict().items())


def test_methods_have_the_signatures_of_transformers():
    import inspect

    for name in ("push_to_hub", "init_hf_repo", "create_model_card"):
        ours, theirs = (
            inspect.signature(getattr(library.Trainer, name)) for library in (raytrainer, transformers)
        )
        assert list(ours.parameters) == list(theirs.parameters)
        assert [one.default for one in ours.parameters.values()] == [
            one.default for one in theirs.parameters.values()
        ]
