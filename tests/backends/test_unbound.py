"""``trainer.accelerator`` before a trainer is bound: its meaning on a driver, and what it prepares for later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.utils.data import DataLoader

import raytrainer
from raytrainer.arguments.process import UnboundState
from raytrainer.backends.unbound import NeedsRankError, UnboundAccelerator
from raytrainer.wire.pickling import pack, unpack
from tests.backends.distilling import make_distilling
from tests.parity.twins import make_model, make_samples, make_trainer

NUMBERS = {"num_processes": 2, "process_index": 0, "local_process_index": 0}


def on_driver(tmp_path: Path, **options: Any) -> Any:
    args = raytrainer.TrainingArguments(output_dir=str(tmp_path), num_workers=2, use_cpu=True, **options)
    return raytrainer.Trainer(model=make_model(), args=args, eval_dataset=make_samples(10))


def test_it_exists_from_the_constructor_on_and_stays_the_same(tmp_path: Path) -> None:
    trainer = on_driver(tmp_path)
    assert isinstance(trainer.accelerator, Accelerator)
    assert trainer.accelerator is trainer.accelerator


def test_touching_it_takes_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*args: object, **kwargs: object) -> None:
        raise AssertionError("a device was touched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("_lazy_init", "set_device", "get_device_properties", "device_count"):
        monkeypatch.setattr(torch.cuda, name, touched)
    args = raytrainer.TrainingArguments(output_dir=str(tmp_path), num_workers=2)
    trainer = raytrainer.Trainer(model=make_model(), args=args)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.prepare(make_model())
    assert trainer.accelerator.device == args.distributed_state.device == torch.device("cpu")


@pytest.mark.slow
def test_touching_it_starts_nothing_and_gives_the_process_a_state(tmp_path: Path) -> None:
    code = (
        "import torch, raytrainer\n"
        f"args = raytrainer.TrainingArguments(output_dir={str(tmp_path)!r}, num_workers=2)\n"
        "trainer = raytrainer.Trainer(model=torch.nn.Linear(2, 2), args=args)\n"
        "trainer.accelerator.wait_for_everyone()\n"
        "from accelerate.logging import get_logger\n"
        "get_logger('mine').warning('said once', main_process_only=True)\n"
        "from accelerate import PartialState\n"
        "assert PartialState().num_processes == 1 and PartialState().device.type == 'cpu'\n"
        "assert not torch.distributed.is_initialized() and not torch.cuda.is_initialized()\n"
        "import ray\n"
        "assert not ray.is_initialized()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("said once") == 1


def test_a_driver_is_the_main_process_of_as_many_as_there_will_be_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accelerator = on_driver(tmp_path, bf16=True).accelerator
    assert {name: getattr(accelerator, name) for name in NUMBERS} == NUMBERS
    assert accelerator.is_main_process
    assert accelerator.is_local_main_process
    assert accelerator.is_last_process
    assert accelerator.distributed_type == DistributedType.NO
    assert (accelerator.mixed_precision, accelerator.state.mixed_precision) == ("bf16", "bf16")
    assert accelerator.device == torch.device("cpu")
    accelerator.wait_for_everyone()
    accelerator.print("once")
    accelerator.on_main_process(lambda: print("decorated"))()
    with accelerator.main_process_first(), accelerator.local_main_process_first():
        print("inside")
    assert capsys.readouterr().out == "once\ndecorated\ninside\n"


def test_a_driver_acts_for_all_ranks(tmp_path: Path) -> None:
    accelerator = on_driver(tmp_path).accelerator
    with accelerator.split_between_processes(["a", "b", "c"]) as share:
        assert share == ["a", "b", "c"]
    batches = [batch["x"].tolist() for batch in accelerator.prepare(loader_of_numbers())]
    assert batches == [[0, 1], [2, 3], [4]]
    assert accelerator.gather_for_metrics(torch.tensor([1, 2])).tolist() == [1, 2]
    assert accelerator.gather_for_metrics([{"a": 1}], use_gather_object=True) == [{"a": 1}]
    assert accelerator.reduce(torch.tensor([3.0])).tolist() == [3.0]
    assert accelerator.pad_across_processes(torch.tensor([3.0])).tolist() == [3.0]


def loader_of_numbers() -> DataLoader[Any]:
    return DataLoader([{"x": number} for number in range(5)], batch_size=2)


def test_a_model_is_unwrapped_and_its_weights_are_read(tmp_path: Path) -> None:
    trainer = on_driver(tmp_path)
    model = trainer.model
    assert trainer.accelerator.unwrap_model(torch.nn.DataParallel(model)) is model
    assert trainer.accelerator.get_state_dict(model).keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", [name for name in dir(Accelerator) if not name.startswith("_")])
def test_every_public_name_of_accelerate_is_answered_or_refused(name: str, tmp_path: Path) -> None:
    accelerator = on_driver(tmp_path).accelerator
    assert name in vars(UnboundAccelerator), "inherited from a class whose constructor was not called"
    if hasattr(accelerator, name):
        return
    with pytest.raises(NeedsRankError, match=f"`accelerator.{name}` needs a rank"):
        getattr(accelerator, name)


def test_an_unknown_name_is_an_ordinary_attribute_error(tmp_path: Path) -> None:
    assert not hasattr(on_driver(tmp_path).accelerator, "no_such_name")


def test_a_backward_pass_on_a_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(raytrainer.ConfigurationError, match="needs a rank, and this trainer is not bound"):
        on_driver(tmp_path).accelerator.backward(torch.zeros(1, requires_grad=True))


def test_a_loader_of_the_trainer_is_not_divided_twice(tmp_path: Path) -> None:
    trainer = on_driver(tmp_path)
    loader = trainer.get_eval_dataloader()
    assert trainer.accelerator.prepare(loader) is loader


def test_a_teacher_is_prepared_when_the_trainer_is_bound(tmp_path: Path) -> None:
    trainer = make_distilling(tmp_path, bf16=True)
    assert not hasattr(trainer.teacher, "_is_accelerate_prepared")
    trainer.train()
    assert trainer.seen["teacher is prepared"]
    assert trainer.teacher._is_accelerate_prepared
    assert trainer.teacher._original_forward is not trainer.teacher.forward, "the precision of training"


def test_an_accelerator_that_was_kept_becomes_the_bound_one(tmp_path: Path) -> None:
    trainer = make_distilling(tmp_path)
    kept = trainer.early
    trainer.train()
    assert trainer.seen["early is bound"]
    assert kept.backward is not None
    assert type(trainer.accelerator) is Accelerator


def test_the_notes_travel_with_the_trainer(tmp_path: Path) -> None:
    arrived = unpack(pack(make_distilling(tmp_path)))
    assert arrived.early is arrived.accelerator
    assert [one.given for one in arrived.accelerator.preparations] == [
        arrived.teacher,
        arrived.beside,
    ]
    assert arrived.nested["teachers"][0] is arrived.teacher


def test_a_bound_trainer_sends_no_accelerator(tmp_path: Path) -> None:
    trainer = make_distilling(tmp_path)
    trainer.train()
    del trainer.early
    assert isinstance(unpack(pack(trainer)).accelerator, UnboundAccelerator)


def test_what_a_real_accelerator_replaces_is_replaced_where_it_was_stored(tmp_path: Path) -> None:
    class Mine(raytrainer.Trainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.extra = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
            self.extra = self.accelerator.prepare(self.extra)
            self.pair = (self.extra, {"loader": self.accelerator.prepare(loader_of_numbers())})

    template = make_trainer(raytrainer, tmp_path, max_steps=1)
    trainer = Mine(model=template.model, args=template.args, train_dataset=make_samples())
    before = trainer.pair[1]["loader"]
    trainer.train()
    assert type(trainer.extra).__name__ == "AcceleratedOptimizer"
    assert trainer.pair[0] is trainer.extra
    assert trainer.pair[1]["loader"] is not before
    assert len(list(trainer.pair[1]["loader"])) == 3


def test_a_loader_that_nobody_kept_is_not_sent(tmp_path: Path) -> None:
    accelerator = on_driver(tmp_path).accelerator
    accelerator.prepare(loader_of_numbers())
    assert unpack(pack(accelerator)).preparations == []


def test_distributed_state_of_a_driver_is_never_none() -> None:
    state = raytrainer.TrainingArguments(num_workers=3).distributed_state
    assert isinstance(state, UnboundState)
    assert (state.num_processes, state.is_main_process, state.use_distributed) == (3, True, False)
    state.wait_for_everyone()
