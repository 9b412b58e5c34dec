"""Every dtype comes back bit for bit, whatever its shape and strides."""

import numpy as np
import pytest

ml_dtypes = pytest.importorskip("ml_dtypes")

DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]
SHAPES = {
    "vector": lambda a: a[:7],
    "scalar": lambda a: a[0].reshape(()),
    "empty": lambda a: a[:0],
    "empty in the middle": lambda a: a[:0].reshape(3, 0, 2),
    "cube": lambda a: a[:24].reshape(2, 3, 4),
    "transposed": lambda a: a[:24].reshape(4, 6).T,
    "every third": lambda a: a[::3],
    "backwards": lambda a: a[::-1],
}


def random_array(dtype):
    raw = np.random.default_rng(7).integers(0, 256, 32 * np.dtype(dtype).itemsize, np.uint8)
    return (raw & 1).astype(bool) if dtype == "bool" else raw.view(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numpy_arrays_come_back_bit_for_bit(client, dtype, shape):
    array = SHAPES[shape](random_array(dtype))
    assert client.put("key", array)
    got = client.get("key").numpy()
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert got.tobytes() == array.tobytes()


TORCH_DTYPES = [
    *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"),
    *("complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TORCH_DTYPES)
def test_torch_tensors_come_back_bit_for_bit(client, name, shape):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, name, None)
    if dtype is None:
        pytest.skip(f"torch {torch.__version__} has no {name}")
    if shape == "backwards":
        pytest.skip("torch has no negative strides")
    flat = torch.from_numpy(random_array("bool" if name == "bool" else "uint8"))
    size = dtype.itemsize if hasattr(dtype, "itemsize") else torch.empty((), dtype=dtype).element_size()
    tensor = SHAPES[shape](flat if name == "bool" else flat.repeat(size).view(dtype))
    assert client.put("key", tensor)
    got = client.get("key").torch()
    assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
    as_bytes = lambda t: t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
    assert as_bytes(got) == as_bytes(tensor)


def test_what_has_no_dtype_is_refused(client):
    for value in (np.array(["text"]), np.array([object()]), np.array([1], "M8[s]")):
        with pytest.raises(TypeError, match="no dtype"):
            client.put("key", value)
    assert client.get("key") is None
