"""Tensors in a GPU's memory: what is put and lent, what a DeviceView hands out, and streams."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _arrays, _core

if TYPE_CHECKING:
    import torch

    from ._core import DeviceView

# A part as the extension takes it: (address, bytes, number of the dtype, shape).
PartIn = tuple[int, int, int, tuple[int, ...]]

_CUDA = 2  # DLPack's number
_LEGACY_DEFAULT_STREAM = 1  # DLPack's, and the driver's beside 0
# What DLPack calls the kinds of numbers whose names end in their bits, and those that have a name.
_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 5: "complex"}
_DLPACK_NAMES = {(4, 16): "bfloat16", (6, 8): "bool", (10, 8): "float8_e4m3", (12, 8): "float8_e5m2"}
_NO_GPU_TENSOR = (
    "a tensor in a GPU's memory is one of torch, or has __dlpack__ or __cuda_array_interface__; not {}"
)
_IN_HOST_MEMORY = "{} is in host memory: put it with the client, or copy it to the GPU"


class Source(NamedTuple):
    """Tensors of one GPU as the extension takes them."""

    parts: list[PartIn]
    stream: int  # in which they were written
    keep: list[Any]  # has their memory


# --- Streams ---


def stream_handle(stream: Any) -> int:
    """The number of a stream: an int, torch's `cuda_stream`, CuPy's `ptr`, what `__cuda_stream__` says. 0 is
    the legacy default one."""
    handle = stream
    if hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__
        handle = (protocol() if callable(protocol) else protocol)[1]
    else:
        for name in ("cuda_stream", "ptr"):
            if hasattr(stream, name):
                handle = getattr(stream, name)
                break
    if isinstance(handle, bool) or not isinstance(handle, int):
        raise TypeError(
            f"a stream is a handle or has cuda_stream, ptr or __cuda_stream__; not {_arrays.type_name(stream)}"
        )
    if handle < 0:
        raise ValueError(f"a stream's handle is not negative: {handle}")
    return 0 if handle == _LEGACY_DEFAULT_STREAM else handle


def torch_stream(ordinal: int) -> int | None:
    """torch's current stream in this thread, if torch uses CUDA in this process."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    return stream_handle(cuda.current_stream(ordinal))


# --- In ---


def describe(value: Any, ordinal: int, stream: Any) -> Source:
    """The parts of a value: one, or one for each element of a list or tuple. `stream`: in which they were
    written; None: as they say. TypeError, ValueError: not tensors of this GPU, or not contiguous."""
    sources, its_stream = describe_all([value], ordinal, stream)
    return sources[0]._replace(stream=its_stream)


def describe_all(values: list[Any], ordinal: int, stream: Any) -> tuple[list[Source], int]:
    """`describe` of many values, and the stream in which all of them were written."""
    said = None if stream is None else stream_handle(stream)
    streams = set()
    sources = []
    for value in values:
        elements = value if isinstance(value, (list, tuple)) else [value]
        if not elements:
            raise ValueError("an object has at least one part; this list is empty")
        source = Source([], 0, [])
        for element in elements:
            part, its_stream = _part(element, ordinal, said, source.keep)
            source.parts.append(part)
            streams.add(its_stream)
        sources.append(source)
    if said is None and len(streams) > 1:
        raise ValueError(
            "the tensors were written in different streams; say stream=, and have that wait for the others"
        )
    return sources, (streams.pop() if streams else 0) if said is None else said


def _part(value: Any, ordinal: int, said: int | None, keep: list[Any]) -> tuple[PartIn, int]:
    """The part, and the stream in which it is there, if `said` says none."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        keep.append(value)
        return _torch_part(torch, value, ordinal), torch_stream(ordinal) or 0
    if isinstance(value, (bytes, bytearray, memoryview, np.ndarray, np.generic)):
        raise TypeError(_IN_HOST_MEMORY.format(_arrays.type_name(value)))
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        device, number = value.__dlpack_device__()
        if device != _CUDA:
            raise TypeError(f"the tensor is on DLPack's device {int(device)}, which is not a GPU of CUDA's")
        _check_ordinal(number, ordinal)
        capsule = _capsule(value, said)
        keep.extend((value, capsule))
        return _dlpack_part(capsule), 0
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        raise TypeError(_NO_GPU_TENSOR.format(_arrays.type_name(value)))
    keep.append(value)
    its_stream = interface.get("stream")
    return _interface_part(interface), 0 if its_stream is None else stream_handle(its_stream)


def _capsule(value: Any, said: int | None) -> Any:
    # Whatever stream it was written in, its library sees to the order.
    stream = said or _LEGACY_DEFAULT_STREAM
    try:
        return value.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # of a library from before DLPack 1.0
        return value.__dlpack__(stream=stream)


def is_read_only(tensor: Any) -> bool:
    """Whether it says so. Not asked of torch, whose tensors never are."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        return False
    if hasattr(tensor, "__dlpack__"):
        return bool(_core._dlpack_describe(_capsule(tensor, None))[-1])
    interface = getattr(tensor, "__cuda_array_interface__", None)
    return interface is not None and bool(interface["data"][1])


def _check_ordinal(number: int, ordinal: int) -> None:
    if number != ordinal:
        raise ValueError(f"the tensor is on GPU {number}; this device is GPU {ordinal}")


def _torch_part(torch: Any, tensor: Any, ordinal: int) -> PartIn:
    if tensor.device.type != "cuda":
        raise TypeError(_IN_HOST_MEMORY.format(f"a tensor on {tensor.device}"))
    _check_ordinal(tensor.device.index, ordinal)
    if tensor.layout is not torch.strided:
        raise TypeError(f"the tensor is {tensor.layout}; take tensor.to_dense()")
    code = _arrays.code_of_torch(torch, tensor.dtype)
    if not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        raise ValueError("the tensor is not contiguous; take tensor.resolve_conj().resolve_neg().contiguous()")
    return tensor.data_ptr(), tensor.numel() * tensor.element_size(), code, tuple(tensor.shape)


def _dlpack_part(capsule: Any) -> PartIn:
    _, _, address, kind, bits, shape, _ = _core._dlpack_describe(capsule)
    name = _DLPACK_NAMES.get((kind, bits)) or f"{_DLPACK_KINDS.get(kind, 'type')}{bits}"
    code = _arrays.code_of_name(name)
    return address, _count(shape) * bits // 8, code, shape


def _interface_part(interface: dict[str, Any]) -> PartIn:
    dtype = np.dtype(interface["typestr"])
    if not dtype.isnative or interface.get("mask") is not None:
        raise TypeError("the tensor is masked, or not of this machine's byte order")
    code = _arrays.code_of_name(dtype.name)
    shape = tuple(interface["shape"])
    size = _count(shape) * dtype.itemsize
    strides = interface.get("strides")
    if strides is not None and size > 0:
        dense = dtype.itemsize
        for length, stride in zip(reversed(shape), reversed(strides)):
            if length != 1 and stride != dense:
                raise ValueError("the tensor is not contiguous; make it so, with a copy")
            dense *= length
    return interface["data"][0], size, code, shape


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def describe_room(parts: Iterable[tuple[int | Iterable[int], Any]]) -> list[PartIn]:
    """Parts that are to be written, (shape, dtype) of each; they have no address yet. TypeError, ValueError."""
    described: list[PartIn] = []
    at = 0
    for number, part in enumerate(parts):
        if not isinstance(part, tuple) or len(part) != 2:
            raise TypeError(f"part {number} is to be a tuple (shape, dtype); not {part!r}")
        shape = _shape(part[0], number)
        name, code, element_bytes = _element(part[1], number)
        size = _count(shape) * element_bytes
        if size and at % element_bytes:
            raise ValueError(
                f"part {number} ({name}) would begin at byte {at}, and its elements not be aligned: reserve parts of "
                "larger elements first"
            )
        described.append((0, size, code, shape))
        at += size
    if at == 0:
        raise ValueError("an object in a GPU's memory has at least one byte; this one is empty")
    if at >= 1 << 63:  # more than the extension can say; the client refuses what no object has
        raise ValueError(f"no object has {at} bytes")
    return described


def _shape(shape: int | Iterable[int], number: int) -> tuple[int, ...]:
    try:
        lengths = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        result = tuple(operator.index(length) for length in lengths)
    except TypeError:
        raise TypeError(f"part {number}: a shape is an int, or ints; not {shape!r}") from None
    if any(length < 0 for length in result):
        raise ValueError(f"part {number}: a shape has no negative length: {result}")
    return result


def _element(dtype: Any, number: int) -> tuple[str, int, int]:
    """Its name, the number of the dtype, and its bytes."""
    if isinstance(dtype, str) and dtype == "bytes":
        raise TypeError(f"part {number}: plain bytes have no shape; reserve uint8")
    torch = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(dtype, torch.dtype):
            code = _arrays.code_of_torch(torch, dtype)
        else:
            code = _arrays.code_of_name(dtype if isinstance(dtype, str) else _numpy_name(dtype))
    except TypeError as error:
        raise TypeError(f"part {number}: {error}") from None
    return _arrays.name_of_code(code), code, _arrays.element_bytes(code)


def _numpy_name(dtype: Any) -> str:
    if dtype is None or not isinstance(dtype, (type, np.dtype)):
        raise TypeError(f"a dtype is one of torch or numpy, or its name; not {dtype!r}")
    known = np.dtype(dtype)
    if not known.isnative:
        raise TypeError(f"{dtype!r} is not of this machine's byte order")
    return str(known.name)


# --- Out ---


def view_to_numpy(view: DeviceView, part: int, deadline: float) -> np.ndarray[Any, Any]:
    tensor = view.part(part)
    dtype = np.dtype(np.uint8) if tensor.dtype == "bytes" else _arrays.numpy_dtype(tensor.dtype)
    copy = np.empty(tensor.nbytes, np.uint8)  # ml_dtypes' types cannot be exported as a buffer
    view._copy_part(part, copy, deadline)
    return copy if tensor.dtype == "bytes" else copy.view(dtype).reshape(tensor.shape)


def view_to_torch(view: DeviceView, part: int, copy: bool) -> torch.Tensor:
    import torch

    source = view.part(part)
    dtype = _arrays.torch_dtype(source.dtype)
    shape = (source.nbytes,) if source.dtype == "bytes" else source.shape
    if source.nbytes == 0:
        return torch.empty(shape, dtype=dtype, device=f"cuda:{source.ordinal}")
    stream = stream_handle(torch.cuda.current_stream(source.ordinal))
    # As bytes: not every torch knows DLPack's float8.
    flat = torch.from_dlpack(source._bytes_capsule(stream))
    if source.address % dtype.itemsize:
        # Parts lie back to back, so one that follows bytes of odd length is misaligned: torch's
        # kernels may assume that no tensor is.
        flat, copy = flat.clone(), False
    tensor = flat.view(dtype).view(shape)
    return tensor.clone() if copy else tensor
