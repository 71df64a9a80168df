"""``torch_compile``: it is on, numbers and files are unchanged, and what cannot be compiled is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from transformers.integrations import liger

import raytrainer
from raytrainer.errors import ConfigurationError
from raytrainer.telemetry.events import EngagedRow
from raytrainer.worker import kernels
from tests.parity.twins import TOLERANCE, make_model, make_samples, make_trainer, rows

GRAPHS: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def counting_backend() -> Iterator[None]:
    import torch._dynamo as dynamo
    from torch._dynamo.backends.registry import _BACKENDS, _COMPILER_FNS

    def counting(graph: Any, inputs: Any) -> Any:
        GRAPHS.append("training" if torch.is_grad_enabled() else "evaluation")
        return graph.forward

    if "counting" not in _COMPILER_FNS:
        dynamo.register_backend(name="counting")(counting)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    dynamo.reset()
    _BACKENDS.pop("counting", None)
    _COMPILER_FNS.pop("counting", None)


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    GRAPHS.clear()
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_run_has_the_numbers_and_files_of_a_plain_one(tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[list[EngagedRow]] = []
    real = kernels.kernel_rows
    monkeypatch.setattr(
        "raytrainer.worker.applied_settings.kernel_rows", lambda *a: seen.append(real(*a)) or seen[-1]
    )
    options: dict[str, Any] = {
        "max_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_strategy": "steps",
        "save_steps": 3,
        "gradient_accumulation_steps": 2,
    }
    plain = make_trainer(raytrainer, tmp_path / "plain", **options)
    plain.train()
    assert not GRAPHS
    compiled = make_trainer(
        raytrainer, tmp_path / "compiled", torch_compile=True, torch_compile_backend="counting", **options
    )
    compiled.train()
    assert GRAPHS.count("training") == 1, "watching how the loss is divided was compiled too"
    assert GRAPHS.count("evaluation") >= 1
    assert [(row.requested, row.engaged, row.ok) for row in seen[-1]] == [
        ("counting, mode default", "torch.compile, in place", True)
    ]
    for mine, other in zip(rows(compiled), rows(plain), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    files = [
        safetensors.torch.load_file(tmp_path / n / "checkpoint-3/model.safetensors")
        for n in ("plain", "compiled")
    ]
    assert files[0].keys() == files[1].keys()
    transformers.LlamaForCausalLM.from_pretrained(tmp_path / "compiled/checkpoint-3")
    graphs = len(GRAPHS)
    assert compiled.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=TOLERANCE)
    assert len(GRAPHS) == graphs, "evaluation after training compiled again what was compiled"


@pytest.mark.slow
def test_resume_of_a_compiled_run_is_bitwise(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 4, "torch_compile_backend": "aot_eager", "save_steps": 2}
    options["save_strategy"] = "steps"
    whole = make_trainer(raytrainer, tmp_path / "whole", **options)
    whole.train()
    resumed = make_trainer(raytrainer, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.slow
def test_prediction_without_training_is_compiled(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, torch_compile_backend="counting")
    trainer.predict(make_samples(4))
    assert GRAPHS


@pytest.mark.slow
def test_noise_on_embeddings_is_compiled_along(tmp_path: Path) -> None:
    plain, compiled = (
        make_trainer(raytrainer, tmp_path / str(i), max_steps=2, neftune_noise_alpha=5.0, **options)
        for i, options in enumerate([{}, {"torch_compile_backend": "counting"}])
    )
    for trainer in (plain, compiled):
        torch.manual_seed(0)
        trainer.train()
    assert GRAPHS
    for mine, other in zip(rows(compiled), rows(plain), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("given", "backend"),
    [
        ({"torch_compile": True}, "inductor"),
        ({"torch_compile_mode": "reduce-overhead"}, "inductor"),
        ({"torch_compile_backend": "AOT_EAGER"}, "aot_eager"),
    ],
    ids=str,
)
def test_a_backend_or_a_mode_switches_compilation_on(given: dict[str, Any], backend: str) -> None:
    args = raytrainer.TrainingArguments(**given)
    assert args.torch_compile
    assert args.torch_compile_backend == backend


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"torch_compile_backend": "inducer"}, "torch_compile_backend='inducer'"),
        ({"torch_compile_mode": "fast"}, "torch_compile_mode='fast'"),
        ({"torch_compile_backend": "eager", "torch_compile_mode": "max-autotune"}, "has no modes"),
    ],
    ids=str,
)
def test_what_torch_does_not_have_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        raytrainer.TrainingArguments(**given)


def test_switching_off_only_half_of_it_is_refused(tmp_path: Path) -> None:
    args = raytrainer.TrainingArguments(str(tmp_path), torch_compile=True)
    args.torch_compile = False
    with pytest.raises(ConfigurationError, match="contradict"):
        raytrainer.Trainer(model=make_model(), args=args, train_dataset=make_samples(4))


def test_inductor_without_a_compiler_is_refused_with_what_to_install(monkeypatch: Any) -> None:
    from torch._inductor import cpp_builder, exc

    def missing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(ConfigurationError, match=r"g\+\+"):
        kernels.check_compiler("inductor", torch.device("cpu"))
    kernels.check_compiler("aot_eager", torch.device("cpu"))


def test_a_launcher_that_asks_for_compilation_is_told_where_to_say_it(monkeypatch: Any) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ConfigurationError, match="torch_compile_backend"):
        raytrainer.TrainingArguments()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    assert not raytrainer.TrainingArguments().torch_compile


def liger_args(kind: str) -> Any:
    return SimpleNamespace(
        use_liger_kernel=True,
        liger_kernel_config={"rope": False},
        torch_compile=False,
        device=torch.device(kind),
        process_index=0,
    )


@pytest.mark.parametrize("given", [{"use_cpu": True}, {"use_gpu": False}], ids=str)
def test_liger_on_a_cpu_is_refused_on_the_driver(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Triton"):
        raytrainer.TrainingArguments(use_liger_kernel=True, **given)


def test_liger_on_a_worker_without_gpu_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rank 0 runs on cpu"):
        kernels.apply_kernels(make_model(), liger_args("cpu"))


def test_liger_without_its_package_names_the_command(monkeypatch: Any) -> None:
    monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: False)
    with pytest.raises(ConfigurationError, match="pip install -U liger-kernel"):
        kernels.apply_kernels(make_model(), liger_args("cuda"))


def test_liger_is_given_the_model_under_an_adapter_and_the_users_config(monkeypatch: Any) -> None:
    peft = pytest.importorskip("peft")
    calls: list[Any] = []
    package = SimpleNamespace(_apply_liger_kernel_to_instance=lambda **given: calls.append(given))
    monkeypatch.setitem(__import__("sys").modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(__import__("sys").modules, "liger_kernel.transformers", package)
    monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: True)
    model = peft.get_peft_model(make_model(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    kernels.apply_kernels(model, liger_args("cuda"))
    assert calls == [{"model": model.get_base_model(), "rope": False}]


def test_liger_that_replaced_nothing_is_not_engaged() -> None:
    (row,) = kernels.kernel_rows(make_model(), liger_args("cuda"))
    assert not row.ok


def test_a_liger_config_without_liger_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="use_liger_kernel=True"):
        raytrainer.TrainingArguments(liger_kernel_config={"rope": True})
