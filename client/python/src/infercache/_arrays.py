"""Values as arrays and tensors: what is put, and what a View hands out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

    from ._core import View

# A part as the extension takes it: (buffer, number of the dtype, shape). The numbers are the wire's.
PartIn = tuple[Any, int, tuple[int, ...]]

_NAMES = (
    "bytes", "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "bfloat16", "float32", "float64", "float8_e4m3", "float8_e5m2", "complex64", "complex128",
)  # fmt: skip
_CODES = {name: code for code, name in enumerate(_NAMES)}
# Where numpy (with ml_dtypes) and torch have another name for it.
_LIBRARY_NAMES = {"float8_e4m3": "float8_e4m3fn"}
_BEYOND_NUMPY = ("bfloat16", "float8_e4m3", "float8_e5m2")
_NUMPY_DTYPES = {name: np.dtype(name) for name in _NAMES[1:] if name not in _BEYOND_NUMPY}
# What torch makes of numpy's arrays in every release, in half the time of torch.frombuffer.
_NUMPY_AND_TORCH = {
    name: dtype for name, dtype in _NUMPY_DTYPES.items() if name not in ("uint16", "uint32", "uint64")
}
_CODE_OF_NUMPY_NAME = {_LIBRARY_NAMES.get(name, name): code for name, code in _CODES.items()}
del _CODE_OF_NUMPY_NAME["bytes"]
_code_of_torch_dtype: dict[Any, int] = {}
_torch_dtypes: dict[str, Any] = {}


class Part(NamedTuple):
    """One part of an object: a tensor, or plain bytes (dtype 'bytes', shape ())."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


# --- Out ---


def view_to_numpy(view: View, part: int, copy: bool) -> np.ndarray[Any, Any]:
    exporter, name, shape = view._part(part, False)
    if name == "bytes":
        array = np.frombuffer(exporter, np.uint8)
    else:
        array = np.ndarray(shape, numpy_dtype(name), exporter)
    return array.copy() if copy else array


def numpy_dtype(name: str) -> np.dtype[Any]:
    dtype = _NUMPY_DTYPES.get(name)
    if dtype is None:
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError(
                f"numpy has no {name}: install ml_dtypes, which adds it, or use View.torch()"
            ) from None
        dtype = np.dtype(getattr(ml_dtypes, _LIBRARY_NAMES.get(name, name)))
        _NUMPY_DTYPES[name] = dtype
    return dtype


def view_to_torch(view: View, part: int, copy: bool) -> torch.Tensor:
    import torch

    exporter, name, shape = view._part(part, True)
    common = _NUMPY_AND_TORCH.get(name)
    if common is not None and 0 not in shape and not exporter.address % common.itemsize:
        tensor = torch.from_numpy(np.ndarray(shape, common, exporter))
        return tensor.clone() if copy else tensor
    dtype = _torch_dtypes.get(name)
    if dtype is None:
        dtype = torch_dtype(name)
    size = len(memoryview(exporter))
    if size == 0:
        return torch.empty((0,) if name == "bytes" else shape, dtype=dtype)
    if exporter.address % dtype.itemsize:
        # Parts lie back to back, so one that follows bytes of odd length is misaligned: torch's
        # kernels may assume that no tensor is.
        flat = torch.frombuffer(exporter, dtype=torch.uint8).clone().view(dtype)
        copy = False
    else:
        flat = torch.frombuffer(exporter, dtype=dtype)
    tensor = flat if name == "bytes" else flat.view(shape)
    return tensor.clone() if copy else tensor


def torch_dtype(name: str) -> torch.dtype:
    import torch

    attribute = "uint8" if name == "bytes" else _LIBRARY_NAMES.get(name, name)
    dtype = getattr(torch, attribute, None)
    if dtype is None:
        raise TypeError(f"torch {torch.__version__} has no {attribute}")
    _torch_dtypes[name] = dtype
    return dtype


# --- In ---


def describe(value: Any) -> list[PartIn]:
    """The parts of a value: one, or one for each element of a list or tuple. TypeError: a value that
    is no buffer, array or tensor, or of a dtype that objects do not have."""
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError("an object has at least one part; this list is empty")
        return [_part(element) for element in value]
    return [_part(value)]


def _part(value: Any) -> PartIn:
    if isinstance(value, (bytes, bytearray)):
        return value, 0, ()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array has a mask beside its data: store both, or .filled()")
    if isinstance(value, (np.ndarray, np.generic)):
        return _numpy_part(np.asarray(value))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _torch_part(torch, value)
    if hasattr(value, "__cuda_array_interface__"):
        raise TypeError(
            f"{type_name(value)} is in a GPU's memory: client.device() stores it there; or put a copy in host memory"
        )
    try:
        buffer = memoryview(value)
    except TypeError:
        raise TypeError(
            f"a value is bytes, a buffer, a numpy array or a torch tensor, or a list of these; not {type_name(value)}"
        ) from None
    if buffer.format == "B" and buffer.ndim == 1:
        return (buffer if buffer.c_contiguous else bytes(buffer)), 0, ()
    return _numpy_part(np.asarray(buffer))


def _numpy_part(array: np.ndarray[Any, Any]) -> PartIn:
    code = _CODE_OF_NUMPY_NAME.get(array.dtype.name)
    if code is None:
        raise TypeError(f"objects have no dtype {array.dtype}; put its bytes, or convert it with astype")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # Not ascontiguousarray, which gives scalars a dimension.
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    # As bytes, since ml_dtypes' types cannot be exported as a buffer.
    return array.reshape(-1).view(np.uint8), code, array.shape


def _torch_part(torch: Any, tensor: Any) -> PartIn:
    if tensor.device.type == "cuda":
        raise TypeError(
            f"the tensor is on {tensor.device}: client.device() stores it in that GPU's memory; or put tensor.cpu()"
        )
    if tensor.device.type != "cpu":
        raise TypeError(f"the tensor is on {tensor.device}; put tensor.cpu()")
    if tensor.layout is not torch.strided:
        raise TypeError(f"the tensor is {tensor.layout}; put tensor.to_dense()")
    code = code_of_torch(torch, tensor.dtype)
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    shape = tuple(tensor.shape)
    if tensor.numel() == 0:
        return b"", code, shape
    return tensor.reshape(-1).view(torch.uint8).numpy(), code, shape


def code_of_torch(torch: Any, dtype: Any) -> int:
    if not _code_of_torch_dtype:
        for name, code in _CODES.items():
            known = getattr(torch, _LIBRARY_NAMES.get(name, name), None)
            if isinstance(known, torch.dtype):
                _code_of_torch_dtype[known] = code
    if dtype not in _code_of_torch_dtype:
        raise TypeError(f"objects have no dtype {dtype}; put tensor.view(torch.uint8), or convert it")
    return _code_of_torch_dtype[dtype]


def code_of_name(name: str) -> int:
    """By a name of ours or of numpy's. TypeError."""
    code = _CODES.get(name) or _CODE_OF_NUMPY_NAME.get(name)
    if code is None:
        raise TypeError(f"objects have no dtype {name}; put its bytes, or convert it")
    return code


def name_of_code(code: int) -> str:
    return _NAMES[code]


def element_bytes(code: int) -> int:
    dtype = _NUMPY_DTYPES.get(_NAMES[code])
    return dtype.itemsize if dtype is not None else 2 if _NAMES[code] == "bfloat16" else 1


def type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
