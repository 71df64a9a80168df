"""Weights survive saving and strict loading; files of another model are recognized by their headers alone."""

from __future__ import annotations

import json
import os
import sys

import accelerate.utils.other
import pytest
import safetensors.torch
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from raytrainer.checkpoint import model_match
from raytrainer.checkpoint.model_files import load_model_weights, save_model_weights
from raytrainer.checkpoint.model_match import check_matches_model, model_signature
from raytrainer.errors import CheckpointError
from tests.checkpoint.models import bert, gpt2, mixtral, plain, same_weights
from tests.checkpoint.saving import names

MAKERS = [gpt2, bert, mixtral, plain]


@pytest.mark.parametrize("make", MAKERS)
def test_weights_come_back_bit_by_bit(tmp_path, make):
    saved, loaded = make(0), make(1)
    save_model_weights(saved, tmp_path)
    check_matches_model(tmp_path, loaded)
    load_model_weights(loaded, tmp_path)
    assert same_weights(saved, loaded)


@pytest.mark.parametrize(
    ("make", "tied", "num_written"),
    [(gpt2, ("lm_head", "transformer.wte"), 1), (plain, ("head", "embed"), 2)],
    ids=["save_pretrained", "plain"],
)
def test_tied_weights_stay_tied(tmp_path, make, tied, num_written):
    save_model_weights(make(0), tmp_path)
    written = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert sum(f"{name}.weight" in written for name in tied) == num_written
    model = make(1)
    load_model_weights(model, tmp_path)
    first, second = (model.get_submodule(name) for name in tied)
    assert first.weight is second.weight


def test_a_plain_module_loads_what_is_written_strictly_by_itself(tmp_path):
    save_model_weights(plain(0), tmp_path)
    model = plain(1)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert same_weights(model, plain(0))


def test_a_file_with_one_name_of_a_tied_weight_has_it(tmp_path):
    save_model_weights(plain(0), tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del tensors["head.weight"]
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    model = plain(1)
    load_model_weights(model, tmp_path)
    assert torch.equal(model.head.weight, plain(0).head.weight)


@pytest.mark.parametrize("make", [gpt2, mixtral])
def test_sharded_weights_are_loaded(tmp_path, make):
    saved, loaded = make(0), make(1)
    saved.save_pretrained(tmp_path, max_shard_size=1000)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    check_matches_model(tmp_path, loaded)
    load_model_weights(loaded, tmp_path)
    assert same_weights(saved, loaded)


@pytest.mark.parametrize("make", [gpt2, plain])
def test_weights_of_torch_save_are_loaded(tmp_path, make):
    saved, loaded = make(0), make(1)
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    load_model_weights(loaded, tmp_path)
    assert same_weights(saved, loaded)


def test_weights_of_torch_save_in_shards_are_loaded(tmp_path):
    saved, loaded = gpt2(0), gpt2(1)
    state = list(saved.state_dict().items())
    weight_map = {}
    for number, part in enumerate((state[:5], state[5:])):
        torch.save(dict(part), tmp_path / f"part-{number}.bin")
        weight_map |= {name: f"part-{number}.bin" for name, _ in part}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    load_model_weights(loaded, tmp_path)
    assert same_weights(saved, loaded)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"w": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_model_weights(plain(), tmp_path)


def test_from_pretrained_reads_what_is_saved(tmp_path):
    model = bert(0, num_labels=5)
    save_model_weights(model, tmp_path)
    assert same_weights(AutoModelForSequenceClassification.from_pretrained(tmp_path), model)


def test_the_files_that_were_written_are_returned(tmp_path):
    (tmp_path / "trainer_state.json").touch()
    (tmp_path / "rng_state_1.pth").touch()
    assert [path.name for path in save_model_weights(bert(), tmp_path)] == [
        "config.json",
        "model.safetensors",
    ]
    assert [path.name for path in save_model_weights(plain(), tmp_path)] == ["model.safetensors"]


def test_no_pickle_is_written(tmp_path):
    save_model_weights(gpt2(), tmp_path)
    assert {os.path.splitext(name)[1] for name in names(tmp_path)} == {".json", ".safetensors"}


def test_the_processing_class_is_saved_beside_the_weights(tmp_path):
    class Tokenizer:
        def save_pretrained(self, directory):
            (directory / "tokenizer.json").touch()

    written = save_model_weights(plain(), tmp_path / "new", processing_class=Tokenizer())
    assert [path.name for path in written] == ["model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("make", [gpt2, plain])
def test_a_given_state_dict_is_written_instead_of_the_models_own(tmp_path, make):
    gathered, model, loaded = make(0), make(1), make(2)
    save_model_weights(model, tmp_path, state_dict=gathered.state_dict())
    load_model_weights(loaded, tmp_path)
    assert same_weights(gathered, loaded)


def test_a_state_that_safetensors_cannot_hold_is_named(tmp_path):
    class WithExtra(nn.Linear):
        def get_extra_state(self):
            return {"anything": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(CheckpointError, match=r"_extra_state \(dict\)"):
        save_model_weights(WithExtra(2, 2), tmp_path)


def test_saving_shows_no_progress_bar(tmp_path, capfd):
    save_model_weights(gpt2(), tmp_path)
    assert "shards" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("check", [check_matches_model, lambda path, model: load_model_weights(model, path)])
@pytest.mark.parametrize(
    ("saved", "other", "said"),
    [
        (
            lambda: bert(num_labels=3),
            lambda: bert(num_labels=5),
            "classifier.bias is [3] in the checkpoint and [5] in",
        ),
        (
            lambda: bert(),
            lambda: bert(num_hidden_layers=2),
            "layer.1.attention.output.LayerNorm.bias [8] is missing",
        ),
        (lambda: bert(num_hidden_layers=2), lambda: bert(), "the model has no bert.encoder.layer.1"),
        (lambda: gpt2(), lambda: bert(), "more. Build the model as it was"),
        (lambda: gpt2(), lambda: gpt2(tie_word_embeddings=False), "lm_head.weight [20, 8] is missing"),
        (
            lambda: plain(),
            lambda: plain(width=3),
            "embed.weight is [6, 4] in the checkpoint and [6, 3] in the model",
        ),
        (lambda: mixtral(), lambda: mixtral(num_local_experts=3), "experts.2.w1.weight [8, 8] is missing"),
    ],
    ids=["labels", "fewer layers", "more layers", "architecture", "untied", "plain", "experts"],
)
def test_the_weights_of_another_model_are_refused_with_what_differs(tmp_path, check, saved, other, said):
    save_model_weights(saved(), tmp_path)
    model = other()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        check(tmp_path, model)
    assert said in str(caught.value)
    assert "was written for another model than this" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_only_three_differences_are_shown(tmp_path):
    save_model_weights(bert(), tmp_path)
    with pytest.raises(CheckpointError) as caught:
        check_matches_model(tmp_path, bert(hidden_size=4))
    assert str(caught.value).count(" in the checkpoint and ") == 3
    assert "; and " in str(caught.value)


def test_matching_reads_no_tensor(tmp_path, monkeypatch):
    save_model_weights(gpt2(), tmp_path)
    for name in ("load_file", "safe_open"):
        monkeypatch.setattr(safetensors.torch, name, lambda *args, **options: pytest.fail("read"))
    check_matches_model(tmp_path, gpt2(1))


def test_an_untied_model_gets_both_of_its_weights_back(tmp_path):
    saved, loaded = gpt2(0, tie_word_embeddings=False), gpt2(1, tie_word_embeddings=False)
    save_model_weights(saved, tmp_path)
    load_model_weights(loaded, tmp_path)
    assert same_weights(saved, loaded)


def test_what_a_class_leaves_out_when_it_saves_may_be_missing(tmp_path, monkeypatch):
    model = bert()
    monkeypatch.setattr(model, "_keys_to_ignore_on_save", {"bert.pooler.dense.bias"})
    save_model_weights(model, tmp_path)
    check_matches_model(tmp_path, model)
    load_model_weights(model, tmp_path)


def test_what_a_class_knows_to_be_in_old_files_may_be_there(tmp_path):
    model = gpt2()
    save_model_weights(model, tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.0.attn.bias"] = torch.ones(1)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    load_model_weights(model, tmp_path)


def test_a_directory_without_weights_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_model_weights(plain(), tmp_path)


@pytest.mark.parametrize("size", [0, 4, 60, 400])
def test_cut_off_weights_are_an_error_and_change_nothing(tmp_path, size):
    save_model_weights(plain(0), tmp_path)
    os.truncate(tmp_path / "model.safetensors", size)
    model = plain(1)
    with pytest.raises(CheckpointError):
        load_model_weights(model, tmp_path)
    assert same_weights(model, plain(1))


def test_weights_are_loaded_into_the_dtype_of_the_model(tmp_path):
    save_model_weights(gpt2(0), tmp_path)
    model = gpt2(1).to(torch.bfloat16)
    load_model_weights(model, tmp_path)
    assert same_weights(model, gpt2(0).to(torch.bfloat16))


@pytest.mark.parametrize("make", MAKERS)
def test_the_signature_depends_on_names_and_shapes_only(make):
    assert model_signature(make(0)) == model_signature(make(1).to(torch.bfloat16))


def test_models_that_differ_in_a_shape_a_name_or_a_tie_have_other_signatures():
    signatures = [
        model_signature(model)
        for model in (
            gpt2(),
            gpt2(n_embd=4),
            gpt2(n_layer=2),
            gpt2(tie_word_embeddings=False),
            bert(),
            plain(),
        )
    ]
    assert len(set(signatures)) == len(signatures)


def test_tied_names_of_tensors_without_memory_are_found():
    with torch.device("meta"):
        model = gpt2()
    assert model_match.model_tensors(model).ties == [["lm_head.weight", "transformer.wte.weight"]]
    assert model_signature(model) == model_signature(gpt2())


def test_saving_imports_no_deepspeed_to_find_that_a_model_is_no_engine(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    seen = []
    model = gpt2()
    real = model.save_pretrained

    def save_pretrained(*args, **kwargs):
        seen.append(accelerate.utils.other.is_deepspeed_available())
        real(*args, **kwargs)

    model.save_pretrained = save_pretrained
    before = accelerate.utils.other.is_deepspeed_available
    save_model_weights(model, tmp_path)
    assert seen == [False]
    assert "deepspeed" not in sys.modules
    assert accelerate.utils.other.is_deepspeed_available is before
