"""Bit-exact round trips of every dtype that objects have."""

import errno

import numpy as np
import pytest

NUMPY = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32",
         "float64", "complex64", "complex128"]  # fmt: skip
BEYOND_NUMPY = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]
SHAPES = [(), (1,), (0,), (3, 0, 2), (2, 3, 4), (1,) * 8]


def filled(shape, itemsize, is_bool):
    """Random bytes: every bit pattern, NaNs included."""
    count = int(np.prod(shape)) * itemsize
    return np.random.default_rng(count).integers(0, 2 if is_bool else 256, count, np.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NUMPY + BEYOND_NUMPY)
def test_numpy(client, name, shape):
    if name in BEYOND_NUMPY:
        dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), name))
    else:
        dtype = np.dtype(name)
    array = filled(shape, dtype.itemsize, name == "bool").view(dtype).reshape(shape)
    assert client.put("key", array)
    view = client.get("key")
    assert view.nbytes == array.nbytes and view.shape == shape
    for back in (view.numpy(), view.numpy(copy=True)):
        assert (back.dtype, back.shape) == (dtype, shape)
        assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NUMPY + BEYOND_NUMPY)
def test_torch(client, name, shape):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, name)
    raw = torch.tensor(filled(shape, dtype.itemsize, name == "bool").tolist(), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(shape)
    assert client.put("key", tensor)
    view = client.get("key")
    for back in (view.torch(), view.torch(copy=True)):
        assert (back.dtype, tuple(back.shape)) == (dtype, shape)
        assert torch.equal(back.reshape(-1).view(torch.uint8), raw)


def test_torch_tensors_are_the_daemons_memory(local):
    torch = pytest.importorskip("torch")
    local.put("key", torch.zeros(1 << 22, dtype=torch.bfloat16))
    view = local.get("key")
    assert view.torch().data_ptr() == view._part(0, False)[0].address
    assert view.torch(copy=True).data_ptr() != view.torch().data_ptr()


def test_nobody_writes_through_a_view(local):
    # What torch takes for writable is not: an operation in place cannot change the object for others.
    local.put("key", np.zeros(4096, dtype=np.uint8))
    view = local.get("key")
    assert view.zero_copy
    with open("/dev/urandom", "rb", buffering=0) as random, pytest.raises(OSError) as failed:
        random.readinto(view._part(0, True)[0])
    assert failed.value.errno == errno.EFAULT
    assert not view.numpy().any()


def test_inputs_need_not_be_contiguous_or_of_this_byte_order(client):
    array = np.arange(24, dtype=np.int32).reshape(4, 6)
    for put in (array.T, array[::2, ::-1], array.astype(">i4"), np.asfortranarray(array)):
        client.put("key", put, overwrite=True)
        assert (client.get("key").numpy() == put).all()
        client.delete("key")


def test_torch_inputs_of_other_layouts(client):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6).requires_grad_()
    conjugate = torch.randn(3, 4, dtype=torch.complex64).conj()
    for put in (base.T, base[::2, 1:], conjugate, conjugate.imag):
        client.put("key", put, overwrite=True)
        assert torch.equal(client.get("key").torch(), put.detach().resolve_conj().resolve_neg())
    with pytest.raises(TypeError, match="to_dense"):
        client.put("key", torch.eye(3).to_sparse())
    with pytest.raises(TypeError, match="on meta"):
        client.put("key", torch.empty(3, device="meta"))


def test_a_misaligned_part_is_a_copy_for_torch(local):
    torch = pytest.importorskip("torch")
    local.put("key", [b"odd", torch.arange(5.0)])
    assert local.get("key").torch(1).data_ptr() % 4 == 0
    assert torch.equal(local.get("key").torch(1), torch.arange(5.0))
    assert (local.get("key").numpy(1) == np.arange(5.0)).all()


def test_values_without_bytes_come_back_as_they_were(client):
    filler = np.zeros((1,) * 8, np.uint8)  # what such objects are stored with
    empty = np.zeros((0, 2), np.float32)
    for value in ([b""], [empty], [b"", empty], [filler], [empty, filler], [filler, filler], [empty, filler, filler]):
        client.put("key", value, overwrite=True)
        view = client.get("key")
        assert [part.shape for part in view.parts] == [getattr(part, "shape", ()) for part in value]
        assert len(view) == sum(len(bytes(part)) for part in value)
        client.delete("key")
