"""Where torch's tensors and streams come in, with torch stood in for."""

import ml_dtypes
import numpy as np
import pytest

from conftest import until
from fake_torch import Dtype, make
from gpu_memory import GpuArray, write

@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn"])
def test_a_tensor_comes_back_as_one_over_the_same_bytes(device, gpu, torch, name):
    array = np.arange(12).astype(getattr(torch, name).numpy).reshape(3, 4)
    assert device.put("key", make(torch, gpu, array)).outcome == "stored"
    view = device.get("key")
    tensor = view.torch()
    assert (tensor.data_ptr(), tensor.shape, tensor.dtype) == (view.address, (3, 4), getattr(torch, name))
    assert view.numpy().tobytes() == array.tobytes()
    assert view.torch(copy=True).cloned and not tensor.cloned
    target = make(torch, gpu, np.zeros_like(array))
    assert device.get_into("key", target) == array.nbytes
    assert target.owner.numpy().tobytes() == array.tobytes()


def test_parts_that_are_misaligned_or_empty(device, gpu, torch):
    device.put("key", [gpu.array(np.arange(3, dtype=np.uint8)), gpu.array(np.zeros((0, 2), np.float32)),
                       gpu.array(np.arange(4, dtype=np.float32))])  # fmt: skip
    view = device.get("key")
    assert not view.torch(0).cloned
    assert view.torch(1).shape == (0, 2)
    misaligned = view.torch(2)
    assert misaligned.cloned and misaligned.shape == (4,) and misaligned.dtype is torch.float32


def test_tensors_that_cannot_be_taken(device, gpu, torch, gpu_client):
    array = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="on GPU 1"):
        device.put("key", make(torch, gpu, array, index=1))
    strided, conjugated, sparse, elsewhere, unknown = (make(torch, gpu, array) for _ in range(5))
    strided.contiguous, conjugated.conjugated, sparse.layout = False, True, "sparse"
    elsewhere.device.type, unknown.dtype = "cpu", Dtype("float64")
    for wrong, error, match in (
        (strided, ValueError, "contiguous"), (conjugated, ValueError, "resolve_conj"),
        (sparse, TypeError, "to_dense"), (elsewhere, TypeError, "host memory"), (unknown, TypeError, "no dtype"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            device.put("key", wrong)
    with pytest.raises(TypeError, match=r"client\.device\(\)"):
        gpu_client.put("key", make(torch, gpu, array))


def test_the_current_stream_is_waited_for(device, gpu, torch):
    device.put("key", make(torch, gpu, np.zeros(4, np.float32)))
    late = make(torch, gpu, np.zeros(4, np.float32))
    one, other = gpu.driver.stream(), gpu.driver.stream()
    torch.stream = one
    view = device.get("key")
    tensor = view.torch()
    torch.stream = other
    gpu.state.streams_stuck = 1
    with view:
        pass
    assert device.stats()["held_for_streams"] == 0, "the tensor has it"
    tensor.owner.let_go(with_gil=True)
    assert device.stats()["held_for_streams"] == 2
    refused = device.put("other", late, deadline=0.1)
    assert refused.code == "DEADLINE_EXCEEDED", "it was written in the current stream"
    gpu.state.streams_stuck = 0
    until(lambda: device.stats()["held_for_streams"] == 0, "the streams are done")


def test_torch_without_cuda_is_not_asked(device, gpu, torch):
    torch.cuda.is_initialized = lambda: False
    torch.cuda.current_stream = None
    assert device.put("key", GpuArray(gpu.driver, np.arange(3)))
    device.get("key").release()


def test_a_reservation_is_written_as_a_tensor(device, gpu, torch):
    array = np.arange(12).astype(ml_dtypes.bfloat16).reshape(3, 4)
    with device.reserve("key", (3, 4), torch.bfloat16) as room:
        tensor = room.torch()
        assert (tensor.data_ptr(), tensor.shape, tensor.dtype) == (room.address, (3, 4), torch.bfloat16)
        assert not tensor.cloned
        write(gpu.driver, tensor.data_ptr(), array.view(np.uint8))
        with pytest.raises(BufferError, match="del it"):
            room.commit()
        tensor.owner.let_go(with_gil=True)
        assert room.commit().outcome == "stored"
    assert device.get("key").numpy().tobytes() == array.tobytes()
    with pytest.raises(TypeError, match="part 0: objects have no dtype"):
        device.reserve("key", 3, Dtype("float64"))


def test_a_reservation_waits_for_the_current_streams(device, gpu, torch):
    room = device.reserve("key", 4, torch.float32)
    one, other = gpu.driver.stream(), gpu.driver.stream()
    torch.stream = one
    room.torch().owner.let_go(with_gil=True)
    torch.stream = other
    gpu.state.streams_stuck = 1
    room.abandon()
    assert device.stats()["held_for_streams"] == 2, "where torch() was called, and where it is abandoned"
    gpu.state.streams_stuck = 0
    until(lambda: device.stats()["held_for_streams"] == 0, "the streams are done")
