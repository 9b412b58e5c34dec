"""What docs/gpu.md and docs/python.md show of devices is what runs. On a fake driver, with torch stood in for."""

import re

import numpy as np
import pytest

import infercache
from conftest import ROOT, until
from fake_torch import make
from gpu_memory import read, write

SHAPE = (32, 128)


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


class Run:
    """The names that the examples use and do not make, on float16 where they matter."""

    def __init__(self, torch, gpu, client):
        def mul(a, b, out):
            write(gpu.driver, out.data_ptr(), a.owner.numpy() * b.owner.numpy())
            out.owner.let_go(with_gil=True)  # as torch does when a tensor is gone

        def attention(q, k):
            bits = read(gpu.driver, k.data_ptr(), k.numel() * k.element_size()).tobytes()
            k.owner.let_go(with_gil=True)
            return q, bits

        def tensor(value):
            return make(torch, gpu, np.full(SHAPE, value, np.float16))

        torch.mul = mul
        self.kv, self.product = np.full(SHAPE, 1, np.float16), np.full(SHAPE, 6, np.float16)
        self.names = {
            "infercache": infercache, "torch": torch, "client": client, "device": client.device(0), "attention": attention,
            "kv": tensor(1), "a": tensor(2), "b": tensor(3), "q": "q", "tensor": tensor(7),
            "puts": [infercache.Put(f"put/{i}", tensor(i)) for i in range(3)],
            "lends": [infercache.Lend(f"lend/{i}", tensor(i)) for i in range(3)],
        }  # fmt: skip

    def __call__(self, block):
        exec(compile(block, "an example", "exec"), self.names)
        return self.names


@pytest.fixture
def run(device, gpu, torch, gpu_client):
    return Run(torch, gpu, gpu_client)


def test_gpu_md(run, device):
    (reservation,) = blocks((ROOT / "docs" / "gpu.md").read_text())
    names = run(reservation)
    assert not names["room"].open
    view = device.get("block/43")
    assert view.kind == "kv" and (view.numpy() == run.product).all()


def test_python_md(run):
    section = (ROOT / "docs" / "python.md").read_text().split("\n## Tensors on a GPU\n")[1].split("\n## ")[0]
    tier, lending = blocks(section)
    names = run(tier)
    device = names["device"]  # the first example opens one
    assert names["out"] == ("q", run.kv.tobytes())
    assert (device.get("block/1").numpy() == run.product).all()
    assert device.match(["put/0", "put/1", "put/2"]) == 3
    names["out"] = None
    names = run(lending)
    assert names["out"] == ("q", np.full(SHAPE, 7, np.float16).tobytes())
    assert device.borrow("prefix/7") is None, "it was taken back"
    assert all(device.take_back(lend.key) for lend in names["lends"])
    until(lambda: device.stats()["held_for_streams"] == 0, "nothing waits for a stream")
