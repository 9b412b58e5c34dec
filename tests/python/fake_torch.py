"""As much of torch as infercache.Device uses, on memory of the fake driver, which no torch can use. What it does here,
gpu_interop.py asks of the real one on a real GPU."""

import sys
import types

import ml_dtypes
import numpy as np
import pytest

from gpu_memory import Consumer
from infercache import _arrays

NUMPY = {"bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn}


class Dtype:
    def __init__(self, name):
        self.name, self.numpy = name, np.dtype(NUMPY.get(name, name))
        self.itemsize = self.numpy.itemsize


class Tensor:
    """A CUDA tensor: one that a test made, or what from_dlpack made of a capsule."""

    layout = "strided"
    conjugated = False

    def __init__(self, address, shape, dtype, owner, index=0):
        self._address, self.shape, self.dtype, self.owner = address, shape, dtype, owner
        self.device = types.SimpleNamespace(type="cuda", index=index)
        self.contiguous, self.cloned = True, False

    def data_ptr(self):
        return self._address

    def numel(self):
        return int(np.prod(self.shape))

    def element_size(self):
        return self.dtype.itemsize

    def is_contiguous(self):
        return self.contiguous

    def is_conj(self):
        return self.conjugated

    def is_neg(self):
        return False

    def view(self, as_what):
        if isinstance(as_what, Dtype):
            shape = (self.numel() * self.element_size() // as_what.itemsize,)
            made = Tensor(self._address, shape, as_what, self.owner)
        else:
            assert np.prod(as_what) == self.numel()
            made = Tensor(self._address, as_what, self.dtype, self.owner)
        made.cloned = self.cloned
        return made

    def clone(self):
        made = Tensor(0, self.shape, self.dtype, None)
        made.cloned = True
        return made


class Torch(types.ModuleType):
    """As much of it as infercache.Device uses."""

    Tensor, dtype, strided, __version__ = Tensor, Dtype, "strided", "stood in for"

    def __init__(self):
        super().__init__("torch")
        for name in ("uint8", "float16", "float32", "bfloat16", "float8_e4m3fn"):
            setattr(self, name, Dtype(name))
        self.stream = 0
        self.cuda = types.SimpleNamespace(
            is_initialized=lambda: True,
            current_stream=lambda ordinal: types.SimpleNamespace(cuda_stream=self.stream),
        )

    def from_dlpack(self, capsule):
        consumer = Consumer(capsule)
        assert (consumer.tensor.code, consumer.tensor.bits) == (1, 8), "uint8 is what every torch knows"
        return Tensor(consumer.tensor.data, consumer.shape, self.uint8, consumer)

    def empty(self, shape, dtype, device):
        assert device == "cuda:0"
        return Tensor(0, shape, dtype, None)


@pytest.fixture
def torch(monkeypatch):
    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    for known in ("_torch_dtypes", "_code_of_torch_dtype"):
        monkeypatch.setattr(_arrays, known, {})
    return torch


def make(torch, gpu, array, index=0):
    owner = gpu.array(array)
    return Tensor(owner.address, array.shape, getattr(torch, array.dtype.name), owner, index)
