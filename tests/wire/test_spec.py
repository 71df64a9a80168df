from __future__ import annotations

import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raytrainer.errors import ConfigurationError
from raytrainer.wire.spec import receive, ship

ROOT = Path(__file__).parents[2]


def there_and_back(value):
    shipped = ship(value)
    for array in shipped.storages:
        array.setflags(write=False)  # as Ray's object store gives them
    return receive(shipped)


def test_tied_weights_are_sent_once_and_stay_tied():
    model = nn.ModuleDict({"embed": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    model["head"].weight = model["embed"].weight
    shipped = ship(model)
    assert sum(array.nbytes for array in shipped.storages) == 50 * 8 * 4
    back = receive(shipped)
    assert back["head"].weight is back["embed"].weight
    assert torch.equal(back["head"].weight, model["head"].weight)


def test_views_of_one_storage_still_share_it():
    base = torch.arange(6.0)
    first, second = there_and_back((base[:3], base[2:]))
    first[2] = 100
    assert second[0] == 100


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8])
def test_dtypes_survive(dtype):
    tensor = torch.tensor([0, 1, 1, 0]).to(dtype)
    back = there_and_back(tensor)
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_received_tensors_are_private_and_writable():
    tensor = torch.zeros(3)
    shipped = ship(tensor)
    one, two = receive(shipped), receive(shipped)
    one += 1
    assert two.tolist() == [0, 0, 0]
    assert tensor.tolist() == [0, 0, 0]


def test_weights_are_not_inside_the_pickle():
    shipped = ship({"weights": torch.zeros(100_000), "array": np.zeros(100_000)})
    assert len(shipped.pickle) < 5_000


def test_numpy_arrays_arrive_writable():
    back = there_and_back({"array": np.zeros(1000)})
    back["array"] += 1


def test_empty_and_meta_tensors_survive():
    empty, meta = there_and_back((torch.empty(0), torch.empty(3, device="meta")))
    assert empty.shape == (0,)
    assert meta.device.type == "meta"


def test_optimizer_still_steps_the_parameters_of_its_model():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model, optimizer = there_and_back((model, optimizer))
    assert optimizer.param_groups[0]["params"][0] is model.weight


class Holder:
    def __init__(self, **attributes):
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (
            lambda: Holder(callback=Holder(lock=threading.Lock())),
            r"trainer\.callback\.lock \(_thread\.lock\)",
        ),
        (lambda: Holder(rows=[1, threading.Lock()]), r"trainer\.rows\[1\]"),
        (lambda: Holder(named={"key": threading.Lock()}), r"trainer\.named\['key'\]"),
    ],
)
def test_what_cannot_be_shipped_is_named(value, path):
    with pytest.raises(ConfigurationError, match=path):
        ship(value())


def test_what_a_function_closes_over_is_named():
    lock = threading.Lock()

    def compute_metrics(prediction):
        with lock:
            return {}

    with pytest.raises(ConfigurationError, match=r"trainer\.compute_metrics\.<lock>"):
        ship(Holder(compute_metrics=compute_metrics))


def test_what_a_function_reads_in_a_module_that_is_sent_is_named():
    made = types.ModuleType("made_in_memory")
    exec("import threading\nlock = threading.Lock()\ndef compute_metrics(p):\n    return lock", vars(made))
    sys.modules["made_in_memory"] = made
    try:
        with pytest.raises(ConfigurationError, match=r"trainer\.compute_metrics\.<lock> \(_thread\.lock\)"):
            ship(Holder(compute_metrics=made.compute_metrics))
    finally:
        del sys.modules["made_in_memory"]


SCRIPT = """
import sys
from torch import nn
from raytrainer.wire.spec import ship
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
    def forward(self, x):
        return self.layer(x) + OFFSET
OFFSET = 7
import cloudpickle
open(sys.argv[1], "wb").write(cloudpickle.dumps(ship(Net())))
"""


@pytest.mark.slow
def test_classes_of_main_are_pickled_by_value(tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)
    subprocess.run(
        [sys.executable, str(script), str(out)], check=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
    )
    import pickle

    net = receive(pickle.loads(out.read_bytes()))
    assert net(torch.zeros(1, 2)).shape == (1, 2)
